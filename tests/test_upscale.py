"Finer files of the same kind, read back by somebody else's reader, and what is refused."

import importlib
import json
import locale
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from program import ctsr, start_ctsr
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from safetensors.torch import load_file

from ctsr.apps.formats import write_slice
from ctsr.apps.upscale import load_model, restore_slice, upscale
from ctsr.core.errors import CTSRError
from ctsr.core.files import file_sha256, save_json, save_tensors
from ctsr.data.degrade import Task, downsample
from ctsr.evaluation.pretrained import model_for, pack
from ctsr.evaluation.restore import load_run, sample_names, tiled
from ctsr.models.network import build_model
from ctsr.training.loop import train
from ctsr.training.settings import TrainConfig

X2 = dict(name="x2", hr=64, lr=32)
X5 = dict(name="x5", hr=256, lr=51)
SMALL = dict(crop=32, batch_size=4, keep="last", precision="bf16")
WINDOW = -1350.0, 150.0  # lung
BODY = -1024.0, 1500.0  # what RUNet sees where no window is named


def pack_as(run, folder):  # as stored weights of that name
    card = json.loads((run / "config.json").read_text())
    save_tensors(folder / f"{run.name}.safetensors", load_file(run / "weights.safetensors"))
    save_json(
        folder / f"{run.name}.json",
        card | dict(sha256=file_sha256(folder / f"{run.name}.safetensors")),
    )


@contextmanager
def refused(*words):
    "A CTSRError of one line that holds all the words."
    with pytest.raises(CTSRError) as caught:
        yield
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500 and all(str(w) in said for w in words), said


@pytest.fixture(scope="module")
def runs(phantom, tmp_path_factory):
    "Two runs that change the picture, and one that interpolates, at a factor of 5.02."
    home = tmp_path_factory.mktemp("runs")
    train(
        TrainConfig(
            task=X2,
            model=dict(name="runet", width=1 / 8, residual=True),
            steps=40,
            validate_every=40,
            **SMALL,
        ),
        phantom,
        home / "runet",
        progress=False,
    )
    train(
        TrainConfig(
            task=X2,
            model=dict(name="sr3", channels=16),
            loss={"l2": 1.0},
            up="bicubic",
            mean=0.5,
            std=0.5,
            clip=1.0,
            steps=20,
            validate_every=20,
            validate_steps=1,
            **SMALL,
        ),
        phantom,
        home / "sr3",
        progress=False,
    )
    still = dict(
        name="runet", width=1 / 16, residual=True
    )  # its last layer is zero before training
    save_tensors(home / "still" / "weights.safetensors", build_model(still).state_dict())
    save_json(
        home / "still" / "config.json", dict(model=still, up="bilinear", task=X5, precision="bf16")
    )
    return home


def ctsr_upscale(*arguments):
    "Run `ctsr upscale`; what it says of its purpose is not among the errors."
    done = ctsr("upscale", *arguments)
    purpose, _, done.stderr = done.stderr.partition("\n")
    assert "not a medical device" in purpose
    return done


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()
    }


def one(rows):
    "The only row of a run in which nothing failed."
    assert len(rows) == 1 and "error" not in rows[0], rows
    return rows[0]["out"]


def failed(rows, *words):
    "The only row of a run in which everything failed, in one line that holds all the words."
    (row,) = rows
    assert "\n" not in row["error"] and all(w in row["error"] for w in words), row


def blobs(*shape, seed=0):
    "Something smooth in [0,1]."
    x = torch.rand(
        (1, 1, *[n // 4 + 1 for n in shape]), generator=torch.Generator().manual_seed(seed)
    )
    return F.interpolate(x, shape, mode="bilinear")[0, 0].numpy()


def thorax(slices=3, height=40, width=36):
    "Slices in HU, all different, from air to metal."
    hu = np.stack([blobs(height, width, seed=z) for z in range(slices)]) * 1500 - 1200
    hu[:, 10:14, 12:18], hu[:, 18:22, 4:8] = 900, 3000
    return hu.round().astype(np.int16)


def enlarged(hu, size, mode="bilinear"):
    return F.interpolate(torch.from_numpy(np.asarray(hu, np.float32))[:, None], size, mode=mode)[
        :, 0
    ].numpy()


def enlarged_hu(hu, size):
    "Bilinear inside the range of the body, bicubic outside."
    seen = np.asarray(hu, np.float32).clip(*BODY)
    return enlarged(seen, size) + enlarged(hu - seen, size, "bicubic")


# 1. Pictures, read back by Pillow.


def grey(restorer, pixels, white):
    return (
        restorer(torch.from_numpy(pixels.astype(np.float32) / white)[None, None], Task(**X2))[
            0, 0
        ].numpy()
        * white
    )


@pytest.mark.parametrize(
    "name, white, kind",
    [
        ("a.png", 255, np.uint8),
        ("a.png", 4095, np.uint16),
        ("a.png", 65535, np.uint16),
        ("a.jpeg", 255, np.uint8),
    ],
)
def test_pictures(runs, tmp_path, name, white, kind):
    "Size, depth, range, resolution, and the numbers of the network; declared bits count."
    pixels = (blobs(45, 38) * white).round().astype(kind)
    pixels[3, 3] = white
    notes = PngInfo()
    if white == 4095:
        notes.add(b"sBIT", b"\x0c")
    Image.fromarray(pixels).save(
        tmp_path / name,
        dpi=(96, 96),
        **(dict(quality=100) if "jpeg" in name else dict(pnginfo=notes)),
    )
    with Image.open(
        one(upscale([tmp_path / name], tmp_path / f"out-{name}", runs / "runet"))
    ) as made:
        assert (
            made.size == (76, 90)
            and made.format == {"a.png": "PNG", "a.jpeg": "JPEG"}[name]
            and round(made.info["dpi"][0]) == 192
        )
        assert made.mode == ("L" if kind == np.uint8 else "I;16")
        found = np.asarray(made).astype(float)
    restorer = load_run(runs / "runet")
    restorer.config = restorer.config | dict(precision="fp32")
    given = np.asarray(Image.open(tmp_path / name))
    assert np.abs(found - grey(restorer, given, white)).max() < (0.51 if "png" in name else 16)
    assert np.abs(found - enlarged(given[None], (90, 76))[0]).max() > white / 50, (
        "the network changed nothing: the test shows nothing"
    )


def test_slices_of_a_stack_match(runs, tmp_path):
    "White is the format's or the window's, not one pixel's; a dark scan needs a window."
    dark = (blobs(45, 38) * 3900).astype(np.uint16)
    spot = dark.copy()
    shifted = (dark // 4 + 32000).astype(np.uint16)  # HU + 32768, say
    spot[0, 0] = 4200
    for name, pixels in dict(a=dark, b=spot, c=shifted, d=(dark // 400).astype(np.uint8)).items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{n}.png" for n in "abcd"]
    for row, word in zip(
        upscale(files, tmp_path / "no", runs / "runet"),
        ("0 to 65535", "0 to 65535", "--window 32", "0 to 255"),
    ):
        assert (
            word in row["error"]
            and "\n" not in row["error"]
            and "--window CENTRE,WIDTH" in row["error"]
        ), row
    assert (
        f"--window {(dark.min() + dark.max()) / 2:g},{np.ptp(dark)}"
        in upscale(files[:1], tmp_path / "no.png", runs / "runet")[0]["error"]
    )
    for row in upscale(files, tmp_path / "no", runs / "runet", window="lung"):
        assert "HU" in row["error"] and "--window CENTRE,WIDTH" in row["error"]
    a, b = (
        np.asarray(Image.open(r["out"])).astype(int)
        for r in upscale(files[:2], tmp_path / "out", runs / "runet", window=(1000, 2000))
    )
    assert np.abs(a - b)[40:, 40:].max() == 0
    restorer, task = load_model(runs / "runet")
    seen = torch.from_numpy(dark.clip(0, 2000).astype(np.float32))[None, None]
    mine = (
        restorer(seen / 2000, task)[0, 0].numpy() * 2000
        + enlarged((dark - seen[0, 0].numpy())[None], a.shape, "bicubic")[0]
    )
    assert (
        np.abs(a - mine).max() < 0.6 and np.abs(a - enlarged(dark[None], a.shape)[0]).max() > 20
    ), "inside restored, outside interpolated"
    failed(
        upscale(files[:1], tmp_path / "no.png", runs / "runet", window=(40000, 100)),
        "shows nothing",
    )


def test_grey_in_colour_channels_and_turned_by_its_camera(runs, tmp_path):
    pixels = (blobs(40, 24) * 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter clockwise
    Image.fromarray(np.dstack([pixels] * 3)).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    Image.fromarray(np.dstack([pixels] * 3 + [np.full_like(pixels, 255)])).save(
        tmp_path / "opaque.png"
    )
    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.png")
    rows = upscale(
        [tmp_path / n for n in ("turned.jpg", "opaque.png", "palette.png")],
        tmp_path / "out",
        runs / "still",
    )
    turned, opaque, palette = (np.asarray(Image.open(r["out"])).astype(float) for r in rows)
    size = tuple(round(n * 256 / 51) for n in (40, 24))
    assert turned.shape == size[::-1] and opaque.shape == palette.shape == size
    assert np.abs(turned - enlarged(np.rot90(pixels, -1)[None].copy(), size[::-1])[0]).max() < 16
    assert (
        np.abs(opaque - enlarged(pixels[None], size)[0]).max() < 0.51 and (opaque == palette).all()
    )


def noisy_png(path, size=(40, 40)):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)).save(path)


def rgb16(path, size=30):
    "A grey PNG of 16 bits in three channels, which Pillow cannot write."

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = np.repeat((blobs(size, size) * 65535).astype(">u2"), 3, axis=1)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">2I5B", size, size, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r.tobytes() for r in rows)))
        + chunk(b"IEND", b"")
    )


PICTURES = {
    "colour": ("a.png", lambda p: Image.new("RGB", (30, 30), (9, 9, 60)).save(p), "colour"),
    "transparent": ("a.png", lambda p: Image.new("LA", (30, 30), (9, 60)).save(p), "transparent"),
    "moving": (
        "a.png",
        lambda p: Image.new("L", (9, 9)).save(
            p, save_all=True, append_images=[Image.new("L", (9, 9), 9)]
        ),
        "holds 2 pictures",
    ),
    "truncated": (
        "a.png",
        lambda p: (noisy_png(p), p.write_bytes(p.read_bytes()[:700])),
        "cannot be read",
    ),
    "empty": ("a.png", lambda p: p.write_bytes(b""), "empty (0 bytes)"),
    "letter": (
        "a.png",
        lambda p: p.write_text("Dear reader"),
        "is not an image",
    ),
    "tiff": ("a.tif", lambda p: Image.new("L", (9, 9)).save(p), "is no PNG, JPEG, DICOM"),
    "pixels in a second file": (
        "a.mhd",
        lambda p: sitk.WriteImage(sitk.GetImageFromArray(thorax()), p),
        "is no PNG, JPEG, DICOM",
    ),
    "coronal stack": (
        "a.nii",
        lambda p: nibabel.save(
            nibabel.Nifti1Image(np.zeros((9, 3, 9), np.int16), np.diag([1, 5, 1, 1])), p
        ),
        "square",
    ),
    "16 bits in colour channels": ("a.png", lambda p: rgb16(p), "save it as 16-bit grey"),
    "mask": (
        "a.png",
        lambda p: Image.fromarray((blobs(30, 30) > 0.5).astype(np.uint8) * 255).save(p),
        "looks like a label map",
    ),
    "one bit": (
        "a.png",
        lambda p: Image.fromarray(blobs(30, 30) > 0.5).save(p),
        "looks like a label map",
    ),
    "label map": (
        "a.nii.gz",
        lambda p: nibabel.save(
            nibabel.Nifti1Image((thorax(6, 9, 9) > 0).astype(np.uint8), np.eye(4)), p
        ),
        "looks like a label map",
    ),
    "eight bits and nothing": (
        "a.nii",
        lambda p: nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 3), 7, np.uint8), np.eye(4)), p),
        "shows nothing",
    ),
    "absent": ("a.png", lambda p: None, "does not exist"),
}


@pytest.mark.parametrize("name, make, word", [pytest.param(*v, id=k) for k, v in PICTURES.items()])
def test_what_cannot_be_restored_costs_only_itself(runs, tmp_path, name, make, word):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in" / name)
    Image.fromarray((blobs(20, 20) * 255).astype(np.uint8)).save(tmp_path / "in" / "good.png")
    bad, good = upscale(
        [tmp_path / "in" / name, tmp_path / "in" / "good.png"], tmp_path / "out", runs / "still"
    )
    assert (
        word in bad["error"]
        and name in bad["error"]
        and "\n" not in bad["error"]
        and list(contents(tmp_path / "out")) == ["good.png"]
    )
    assert good["out"] == tmp_path / "out" / "good.png"


# 2. Volumes: NIfTI read back by nibabel, NRRD by SimpleITK.


def as_nifti(path, hu, codes="LPS", forms=(1, 1), slope=None, tilt=0.0):
    "A file with the axes named; `hu` goes feet to head, front to back, right to left."
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    image = nibabel.Nifti1Image(
        hu.transpose(2, 1, 0),
        turn @ np.array([[-2.0, 0, 0, 30], [0, -2, 0, 45], [0, 0, 5, -60], [0, 0, 0, 1]]),
    )
    to = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    image = image.as_reoriented(to)
    image.header["descrip"] = b"a chest"
    for put, code in zip((image.set_qform, image.set_sform), forms):
        put(image.affine, code)
    nibabel.save(image, path)
    if slope:
        data = bytearray(path.read_bytes())
        data[112:120] = np.array(slope, "<f4").tobytes()
        path.write_bytes(data)
    return image.affine


def axial(image):
    "(slices, rows, columns) as above, and outer corners in mm, by nibabel alone."
    to = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("LPS")
    )
    turned = image.as_reoriented(to)
    corners = np.array(
        [[x * n - 0.5 for x, n in zip(at, turned.shape)] + [1] for at in np.ndindex(2, 2, 2)]
    )
    return turned.get_fdata().transpose(2, 1, 0), corners @ turned.affine.T


@pytest.mark.parametrize(
    "codes, suffix, kind",
    [
        ("LPS", ".nii.gz", "i2"),
        ("RAS", ".nii", "i2"),
        ("PIR", ".nii.gz", "f4"),
        ("SLA", ".nii", "i4"),
    ],
)
def test_nifti(runs, tmp_path, codes, suffix, kind):
    "Any factor, orientation and tilt: corners stay, slices are those of the network."
    affine = as_nifti(tmp_path / f"a{suffix}", thorax().astype(kind), codes, (2, 4), tilt=0.2)
    hu = thorax()
    made = nibabel.load(
        one(upscale([tmp_path / f"a{suffix}"], tmp_path / f"b{suffix}", runs / "still", factor=5))
    )
    before = axial(nibabel.load(tmp_path / f"a{suffix}"))
    after = axial(made)
    assert np.array_equal(before[0], hu) and after[0].shape == (3, 201, 181)
    assert (
        np.allclose(before[1], after[1], atol=1e-3)
        and "".join(nibabel.aff2axcodes(made.affine)) == codes
    )
    assert (
        np.allclose(sorted(made.header.get_zooms()), [2 * 36 / 181, 2 * 40 / 201, 5])
        and made.get_data_dtype() == kind
    )
    assert (made.header["qform_code"], made.header["sform_code"]) == (2, 4) and made.header[
        "descrip"
    ].item() == b"a chest"
    assert np.allclose(made.get_qform(), made.get_sform(), atol=1e-4)
    assert np.abs(after[0] - enlarged_hu(hu, (201, 181))).max() < 0.51, "metal, air, lung"
    assert after[0].max() > 2000 and not np.allclose(affine[:3, 3], made.affine[:3, 3])


def corners(image, affine):
    return (
        np.array(
            [[x * n - 0.5 for x, n in zip(at, image.shape)] + [1] for at in np.ndindex(2, 2, 2)]
        )
        @ affine.T
    )


@pytest.mark.parametrize("codes, kind, order", [("RAS", "i2", "<"), ("PIR", "f4", ">")])
def test_what_a_nifti_header_says_stays(runs, tmp_path, codes, kind, order):
    "Two forms that disagree; units, ranges, names, extensions, a fourth axis, byte order."
    as_nifti(tmp_path / "a.nii.gz", thorax().astype(kind), codes)
    a = nibabel.load(tmp_path / "a.nii.gz")
    a = nibabel.Nifti1Image(
        np.asanyarray(a.dataobj)[..., None], a.affine, a.header.as_byteswapped(order)
    )
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [
        [np.cos(np.pi / 9), -np.sin(np.pi / 9)],
        [np.sin(np.pi / 9), np.cos(np.pi / 9)],
    ]
    a.set_qform(a.affine, 1)
    a.set_sform(tilt @ a.affine, 2)
    a.header.set_xyzt_units("micron")
    a.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"hello"))
    for k, v in dict(
        cal_min=-1000, cal_max=200, intent_name=b"ct", aux_file=b"lut.txt", toffset=3
    ).items():
        a.header[k] = v
    nibabel.save(a, tmp_path / "a.nii.gz")
    a = nibabel.load(tmp_path / "a.nii.gz")
    b = nibabel.load(one(upscale([tmp_path / "a.nii.gz"], tmp_path / "b.nii.gz", runs / "still")))
    assert a.header.endianness == b.header.endianness == order and not np.allclose(
        a.get_qform(), a.get_sform(), atol=1
    )
    for form in ("get_qform", "get_sform"):
        assert np.allclose(
            corners(a, getattr(a, form)()), corners(b, getattr(b, form)()), atol=1e-3
        ), form
    changed = {k for k in a.header if a.header[k].tobytes() != b.header[k].tobytes()}
    assert changed <= {
        "dim",
        "pixdim",
        "srow_x",
        "srow_y",
        "srow_z",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
    }, changed
    assert (
        b.header.extensions[:1] == a.header.extensions
        and len(a.header.extensions) == 1
        and b.ndim == 4
        and sorted(b.shape) == [1, 3, 181, 201]
    )


def test_nifti_of_eight_bits_and_with_a_slope(runs, tmp_path):
    "Numbers keep type, slope and intercept; eight bits are grey levels."
    as_nifti(tmp_path / "grey.nii.gz", (np.stack([blobs(40, 36)] * 2) * 255).astype(np.uint8))
    stored = ((thorax() + 1024) // 2).astype(np.int16)
    as_nifti(tmp_path / "slope.nii", stored, slope=(2, -1024))
    grey, slope = (
        nibabel.load(r["out"])
        for r in upscale(
            [tmp_path / "grey.nii.gz", tmp_path / "slope.nii"], tmp_path / "out", runs / "still"
        )
    )
    assert (
        grey.get_data_dtype() == np.uint8
        and np.abs(
            axial(grey)[0]
            - enlarged((np.stack([blobs(40, 36)] * 2) * 255).astype(np.uint8), (201, 181))
        ).max()
        < 0.51
    )
    assert slope.get_data_dtype() == np.int16 and (slope.dataobj.slope, slope.dataobj.inter) == (
        2,
        -1024,
    )
    assert np.abs(axial(slope)[0] - enlarged_hu(stored * 2.0 - 1024, (201, 181))).max() < 1.02


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_nrrd(runs, tmp_path, suffix):
    "An oblique volume with an entry; the network inside the window, interpolation outside."
    image = sitk.GetImageFromArray(thorax())
    cos = np.cos(0.3)
    sin = np.sin(0.3)
    image.SetSpacing((0.75, 0.75, 3))
    image.SetOrigin((-100, 20, 7))
    image.SetDirection((cos, 0, sin, 0, 1, 0, -sin, 0, cos))
    image.SetMetaData("modality", "CT")
    sitk.WriteImage(image, tmp_path / f"a{suffix}")
    made = sitk.ReadImage(
        one(upscale([tmp_path / f"a{suffix}"], tmp_path / f"b{suffix}", runs / "runet"))
    )
    assert (
        made.GetSize() == (72, 80, 3)
        and made.GetPixelID() == sitk.sitkInt16
        and made.GetMetaData("modality") == "CT"
    )
    assert np.allclose(made.GetSpacing(), (0.375, 0.375, 3)) and np.allclose(
        made.GetDirection(), image.GetDirection()
    )
    for at in ((-0.5, -0.5, 0), (71.5, 79.5, 2)):
        old = [(x + 0.5) / 2 - 0.5 for x in at[:2]] + [at[2]]
        assert np.allclose(
            made.TransformContinuousIndexToPhysicalPoint(at),
            image.TransformContinuousIndexToPhysicalPoint(old),
        )
    restorer, task = load_model(runs / "runet")
    seen = torch.from_numpy((thorax().clip(*BODY) + 1024).astype(np.float32) / 2524)[:, None]
    network = restorer(seen, task)[:, 0].numpy() * 2524 - 1024
    rest = enlarged(thorax() - thorax().clip(*BODY), (80, 72), "bicubic")
    assert (
        np.abs(sitk.GetArrayFromImage(made) - network - rest).max() < 0.6
        and (rest == 0).any()
        and rest.max() > 1000
    )


# 3. DICOM, read back by pydicom.


def save(d, path, syntax=ExplicitVRLittleEndian):
    d.file_meta.TransferSyntaxUID = syntax
    d.save_as(path, enforce_file_format=True)
    return d


def as_dicom(
    path, hu, z=0, number=1, slope=1, intercept=-1024, bits=12, signed=0, series="1.2.3.4", **more
):
    "One slice as a scanner writes it."
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SpecificCharacterSet = "ISO_IR 100"
    d.PatientName = "Müller^Jörg"
    d.PatientID = "1957"
    d.Modality = "CT"
    d.SOPClassUID = CTImageStorage
    d.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    d.StudyInstanceUID = "1.2.3"
    d.SeriesInstanceUID = series
    d.FrameOfReferenceUID = "1.2.5"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.SeriesDescription = "Thorax " * 9
    d.InstanceNumber = number
    d.StudyDate = "20200102"
    d.ImagePositionPatient = [-100.5, -90.25, z]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.PixelSpacing = [0.7, 0.7]
    d.SliceThickness = 4
    d.Rows, d.Columns = hu.shape
    d.SamplesPerPixel = 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.BitsAllocated = 16
    d.BitsStored = bits
    d.HighBit = bits - 1
    d.PixelRepresentation = signed
    d.RescaleSlope = slope
    d.RescaleIntercept = intercept
    d.WindowCenter = [-600, 40]
    d.WindowWidth = [1500, 400]
    d.KVP = 120
    d.LargestImagePixelValue = 5
    d.PixelData = (
        np.round((hu - float(intercept)) / slope).astype("<i2" if signed else "<u2").tobytes()
    )
    for k, v in more.items():
        setattr(d, k, v)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(d, path)


@pytest.mark.parametrize(
    "scale",
    [dict(), dict(slope=0.5, bits=16), dict(slope=2, intercept=0, bits=16, signed=1)],
    ids=["12 bits", "half", "signed"],
)
def test_dicom_series(runs, tmp_path, scale):
    "Names contradict the order; new identifiers, old patient, bits and rescale."
    hu = thorax().clip(-1024, 3000)
    old = [
        as_dicom(tmp_path / "in" / f"{9 - z}.dcm", hu[z], 4.0 * z, z + 1, SeriesNumber=3, **scale)
        for z in range(3)
    ]
    tongue = locale.setlocale(locale.LC_ALL)
    folder = one(upscale([tmp_path / "in"], tmp_path / "out", runs / "still"))
    assert (
        sorted(contents(folder)) == ["7.dcm", "8.dcm", "9.dcm"]
        and locale.setlocale(locale.LC_ALL) == tongue
    )
    new = [pydicom.dcmread(folder / f"{9 - z}.dcm") for z in range(3)]
    slope, intercept = float(old[0].RescaleSlope), float(old[0].RescaleIntercept)
    given = np.stack([o.pixel_array for o in old]) * slope + intercept
    least = -(2 ** (old[0].BitsStored - 1)) if old[0].PixelRepresentation else 0
    fine = (enlarged_hu(given, (201, 181)) - intercept) / slope
    fine = fine.clip(least, least + 2 ** old[0].BitsStored - 1)
    for z, (a, b) in enumerate(zip(old, new)):
        assert np.abs(b.pixel_array - fine[z]).max() < 0.51 and (
            b.RescaleSlope,
            b.RescaleIntercept,
        ) == (a.RescaleSlope, a.RescaleIntercept)
        for k in (
            "PatientName",
            "PatientID",
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
            "WindowCenter",
            "WindowWidth",
            "SliceThickness",
            "InstanceNumber",
            "KVP",
            "ImageOrientationPatient",
            "SOPClassUID",
            "StudyDate",
        ):
            assert b[k].value == a[k].value, k
        assert (
            b.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
            and (b.Rows, b.Columns) == (201, 181)
            and "LargestImagePixelValue" not in b
        )
        assert (
            np.allclose(b.PixelSpacing, [0.7 * 40 / 201, 0.7 * 36 / 181])
            and "still" in b.DerivationDescription
            and a.SOPInstanceUID in b.DerivationDescription
        )
        assert b.SeriesNumber == 1003, "beside its original in a list of series"
        assert (
            "not a medical device" in b.DerivationDescription
            and b.SeriesDescription.endswith("ctsr still")
            and len(b.SeriesDescription) <= 64
        )

        def corner(d):
            return np.array(d.ImagePositionPatient, float) - [
                float(d.PixelSpacing[1]) / 2,
                float(d.PixelSpacing[0]) / 2,
                0,
            ]

        assert (
            np.allclose(corner(a), corner(b), atol=1e-4)
            and b.file_meta.MediaStorageSOPInstanceUID == b.SOPInstanceUID
        )
    assert (
        len({d.SOPInstanceUID for d in old + new}) == 6
        and len({d.SeriesInstanceUID for d in new}) == 1
        and new[0].SeriesInstanceUID != old[0].SeriesInstanceUID
    )
    assert all(d.SOPInstanceUID.is_valid and d.SeriesInstanceUID.is_valid for d in new)


def test_slices_given_one_by_one_stay_a_series(runs, tmp_path):
    "Also after an interrupt; another series, network or window makes another series."
    for z in range(3):
        as_dicom(tmp_path / "in" / f"{z}.dcm", thorax()[z].clip(-1024, 3000), 4.0 * z, z + 1)
    as_dicom(tmp_path / "other.dcm", thorax()[0].clip(-1024, 3000), series="1.2.3.5")
    files = [*sorted((tmp_path / "in").iterdir()), tmp_path / "other.dcm"]

    def uids(name, inputs, *args, **kwargs):
        for row in upscale(inputs, tmp_path / name, *args, **kwargs):
            assert "error" not in row, row
        made = [pydicom.dcmread(f) for f in sorted((tmp_path / name).iterdir())]
        assert len({d.SOPInstanceUID for d in made}) == len(made) and all(
            d.SeriesInstanceUID.is_valid and d.SOPInstanceUID.is_valid for d in made
        )
        return [(d.SeriesInstanceUID, d.SOPInstanceUID) for d in made]

    assert len(uids("a", files[:2], runs / "still")) == 2
    *one_by_one, other = uids("a", files, runs / "still")
    assert (
        len({series for series, _ in one_by_one}) == 1
        and other[0] != one_by_one[0][0]
        and one_by_one == uids("b", [tmp_path / "in"], runs / "still")
    )
    for change in (dict(model=runs / "runet"), dict(model=runs / "still", window="bone")):
        changed = uids("c", files[:3], **change, force=True)
        assert len({series for series, _ in changed}) == 1 and not {
            u for pair in changed for u in pair
        } & {u for pair in one_by_one for u in pair}


def test_identifiers_that_lack_or_repeat(runs, tmp_path):
    "No series is made of files that name none, and images that share an identifier get one each."
    for z in range(2):
        d = as_dicom(
            tmp_path / "in" / f"{z}.dcm",
            thorax()[z].clip(-1024, 3000),
            4.0 * z,
            SOPInstanceUID="1.2.9",
        )
        d.file_meta.MediaStorageSOPInstanceUID = "1.2.9"
        save(d, tmp_path / "in" / f"{z}.dcm")
    same = [
        pydicom.dcmread(row["out"])
        for row in upscale(sorted((tmp_path / "in").iterdir()), tmp_path / "out", runs / "still")
    ]
    assert (
        len({d.SOPInstanceUID for d in same}) == 2 and len({d.SeriesInstanceUID for d in same}) == 1
    )
    for f in (tmp_path / "in").iterdir():
        d = pydicom.dcmread(f)
        d.SeriesInstanceUID = ""
        d.save_as(f)
    none = [
        pydicom.dcmread(row["out"])
        for row in upscale(sorted((tmp_path / "in").iterdir()), tmp_path / "none", runs / "still")
    ]
    assert len({d.SeriesInstanceUID for d in none}) == 2 and all(
        d.SeriesInstanceUID.is_valid for d in none
    )


def circle(height, width):
    return (
        np.hypot(*(np.mgrid[:height, :width] - np.array([[[height - 1]], [[width - 1]]]) / 2))
        > min(height, width) / 2
    )


@pytest.mark.parametrize(
    "pad, last, scale",
    [
        (-2000, "", dict(signed=1, bits=16)),
        (0, "", dict()),
        (-2000, -1990, dict(signed=1, bits=16)),
        (-2000, None, dict(signed=1, bits=16)),
    ],
    ids=["far below air", "lowest of 12 bits", "a range", "no tag"],
)
def test_padding_is_no_image(runs, tmp_path, pad, last, scale):
    "It stays where and what it is, and is blended with nothing; tagged, or far below air."
    stored = thorax()[0].clip(-1023, 2500).astype(int) + 1024
    out = circle(40, 36)
    stored[20, :] = 1  # the lowest that is image
    stored[out] = pad
    if last:
        stored[:4][out[:4]] = last
    tags = (
        {}
        if last is None
        else dict(PixelPaddingValue=pad) | (dict(PixelPaddingRangeLimit=last) if last else {})
    )
    d = as_dicom(tmp_path / "a.dcm", stored - 1024, **scale, **tags)
    if last == "" and pad < 0:
        d.add_new(0x280120, "US", pad + 65536)  # as some write it
        save(d, tmp_path / "a.dcm")
    made = pydicom.dcmread(one(upscale([tmp_path / "a.dcm"], tmp_path / "b.dcm", runs / "runet")))
    found = made.pixel_array.astype(int)
    wide = np.kron(out, np.ones((2, 2), bool))
    assert (found[wide] == np.kron(stored, np.ones((2, 2), int))[wide]).all() and (
        found[~wide] > max(pad, last or pad)
    ).all()
    assert all(made[k].value == v for k, v in tags.items())
    other, _ = restore_slice(
        np.where(out, 3000, stored - 1024), BODY, *load_model(runs / "runet"), tagged=(2999, 3001)
    )  # other padding, same image
    assert np.abs(found - np.maximum(other + 1024, pad + 1))[~wide].max() < 0.51


def test_padding_of_a_volume(runs, tmp_path):
    hu = thorax()
    out = circle(40, 36)
    hu[:, out], hu[0, 20, 20] = -3024, -2500  # and an artefact
    as_nifti(tmp_path / "a.nii.gz", hu, "RAS")
    found = axial(
        nibabel.load(one(upscale([tmp_path / "a.nii.gz"], tmp_path / "b.nii.gz", runs / "runet")))
    )[0]
    wide = np.kron(out, np.ones((2, 2), bool))
    assert (
        (found[:, wide] == -3024).all()
        and found[1:, ~wide].min() > -1500
        and found[0, ~wide].min() >= -2500
    )


def test_a_dicom_file_without_an_ending(runs, tmp_path):
    old = as_dicom(tmp_path / "in" / "IM0001", thorax()[0].clip(-1024, 3000), bits=16)
    new = pydicom.dcmread(
        one(
            upscale(
                [tmp_path / "in" / "IM0001"], tmp_path / "out", runs / "runet", window=(40, 400)
            )
        )
    )
    assert (
        (tmp_path / "out").is_file()
        and (new.Rows, new.Columns) == (80, 72)
        and new.SOPInstanceUID != old.SOPInstanceUID
    )


def test_no_geometry_is_made_up(runs, tmp_path):
    "A slice says nothing about its place that its original did not say."
    old = as_dicom(tmp_path / "in" / "a.dcm", thorax()[0].clip(-1024, 3000))
    for k in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(old, k)
    save(old, tmp_path / "in" / "bare.dcm")
    rows = upscale(
        [tmp_path / "in" / n for n in ("a.dcm", "bare.dcm")], tmp_path / "out", runs / "still"
    )
    placed, bare = (pydicom.dcmread(row["out"]) for row in rows)
    assert "SpacingBetweenSlices" not in placed and "PixelSpacing" in placed
    assert not [
        k
        for k in (
            "SpacingBetweenSlices",
            "PixelSpacing",
            "ImagePositionPatient",
            "ImageOrientationPatient",
        )
        if k in bare
    ]
    assert (placed.pixel_array == bare.pixel_array).all()
    assert {e.keyword for e in bare if not e.is_empty} - {e.keyword for e in old} == {
        "DerivationDescription"
    }  # the others say that nothing is known


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_slice_with_too_few_pixels_is_refused(runs, tmp_path, syntax):
    "GDCM fills up what is not there."
    from ctsr.data.volumes import read_volume

    d = as_dicom(tmp_path / "in" / "a.dcm", thorax(1, 96, 96)[0].clip(-1024, 3000))
    d.PixelData = d.PixelData[:5000]
    save(d, tmp_path / "in" / "a.dcm", syntax)
    failed(
        upscale([tmp_path / "in" / "a.dcm"], tmp_path / "b.dcm", runs / "still"),
        "truncated",
        "18432 bytes",
        "5000",
    )
    with refused("truncated"):
        read_volume(tmp_path / "in")


def test_an_icon_is_no_slice(runs, tmp_path):
    "It has pixels of its own, fewer, and before those of the slice."
    d = as_dicom(tmp_path / "a.dcm", thorax(1, 40, 36)[0].clip(-1024, 3000))
    icon = Dataset()
    icon.Rows = icon.Columns = icon.BitsAllocated = icon.BitsStored = 8
    icon.HighBit = 7
    icon.PixelRepresentation = 0
    icon.SamplesPerPixel = 1
    icon.PhotometricInterpretation = "MONOCHROME2"
    icon.PixelData = bytes(64)
    d.IconImageSequence = [icon]
    save(d, tmp_path / "a.dcm")
    assert (
        pydicom.dcmread(one(upscale([tmp_path / "a.dcm"], tmp_path / "b.dcm", runs / "still"))).Rows
        == 201
    )


def test_overlays_are_left_out(runs, tmp_path):
    "They have a bit for each old pixel."
    d = as_dicom(tmp_path / "a.dcm", thorax()[0].clip(-1024, 3000))
    for tag, kind, value in (
        (0x10, "US", 40),
        (0x11, "US", 36),
        (0x40, "CS", "G"),
        (0x50, "SS", [1, 1]),
        (0x100, "US", 1),
        (0x102, "US", 0),
        (0x3000, "OW", bytes(180)),
    ):
        d.add_new(0x60000000 + tag, kind, value)
    save(d, tmp_path / "a.dcm")
    made = pydicom.dcmread(one(upscale([tmp_path / "a.dcm"], tmp_path / "b.dcm", runs / "still")))
    assert not [e.tag for e in made if 0x6000 <= e.tag.group < 0x6100]


def test_files_passed_over_are_counted(runs, tmp_path):
    for z in range(2):
        as_dicom(tmp_path / "in" / f"{z}.dcm", thorax()[z].clip(-1024, 3000), 4.0 * z)
    noisy_png(tmp_path / "in" / "key.png")
    (row,) = upscale([tmp_path / "in"], tmp_path / "out", runs / "still")
    assert row["slices"] == 2 and row["others"] == 1


def test_the_remedy_for_a_folder_of_pictures_and_for_nothing(runs, tmp_path, monkeypatch):
    "A folder of other files is told how to name them; an empty name is no current folder."
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.PNG"):
        noisy_png(tmp_path / "in" / name)
    (tmp_path / "in" / "c.nii.gz").write_bytes(b"")
    (tmp_path / "none").mkdir()
    failed(
        upscale([tmp_path / "in"], tmp_path / "out", runs / "still"),
        "no DICOM files",
        f"{tmp_path}/in/*.nii.gz {tmp_path}/in/*.png",
    )
    failed(
        upscale([tmp_path / "none"], tmp_path / "out", runs / "still"),
        "no DICOM files; name pictures and volumes one by one",
    )
    as_dicom(tmp_path / "in" / "d.dcm", thorax()[0].clip(-1024, 3000))
    for inputs, out in (
        ([""], tmp_path / "out"),
        ([tmp_path / "in" / "a.png", ""], tmp_path / "out"),
        ([tmp_path / "in" / "a.png"], ""),
    ):
        with refused("empty", "name a file or a folder"):
            upscale(inputs, out, runs / "still")
    monkeypatch.chdir(tmp_path / "in")
    done = ctsr_upscale("", "-o", tmp_path / "out", "--model", runs / "still")
    assert (
        done.returncode == 2
        and done.stderr.startswith("ctsr: IN or OUT is empty")
        and done.stderr.count("\n") == 1
        and not (tmp_path / "out").exists()
    )
    (row,) = upscale(["."], tmp_path / "out", runs / "still")
    assert row["slices"] == 1 and row["others"] == 3


def test_no_number_is_larger_than_its_bits(tmp_path):
    "Twelve bits end at 4095, whatever a network says; a thirteenth would be another picture's."
    d = as_dicom(tmp_path / "old.dcm", thorax()[0].clip(-1024, 3000))
    write_slice(np.array([[-9000.0, -1024, 0, 3071, 9000]]), tmp_path / "a.dcm", d)
    assert pydicom.dcmread(tmp_path / "a.dcm").pixel_array.tolist() == [[0, 0, 1024, 4095, 4095]]


@pytest.mark.parametrize(
    "more, word",
    [
        (dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), "multi-frame"),
        (dict(PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0), "RGB"),
        (dict(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "axial"),
    ],
)
def test_dicom_that_is_not_known_is_refused(runs, tmp_path, more, word):
    d = as_dicom(tmp_path / "in" / "a.dcm", thorax()[0].clip(-1024, 3000))
    for k, v in more.items():
        setattr(d, k, v)
    d.PixelData *= d.SamplesPerPixel
    save(d, tmp_path / "in" / "a.dcm")
    for given in (tmp_path / "in", tmp_path / "in" / "a.dcm"):
        (row,) = upscale([given], tmp_path / "out", runs / "still")
        assert (
            word in row["error"]
            and ("a.dcm" in row["error"] or str(given) in row["error"])
            and not (tmp_path / "out").exists()
        )


def test_a_damaged_slice_leaves_no_half_series(runs, tmp_path):
    for z in range(3):
        as_dicom(tmp_path / "in" / f"{z}.dcm", thorax()[z].clip(-1024, 3000), 4.0 * z)
    (tmp_path / "in" / "2.dcm").write_bytes((tmp_path / "in" / "2.dcm").read_bytes()[:-900])
    before = contents(tmp_path)
    (row,) = upscale([tmp_path / "in"], tmp_path / "out", runs / "still")
    assert (
        "2.dcm" in row["error"]
        and contents(tmp_path) == before
        and sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    )
    as_dicom(tmp_path / "in" / "2.dcm", thorax()[2].clip(-1024, 3000), 8.0, series="1.2.3.9")
    (row,) = upscale([tmp_path / "in"], tmp_path / "out", runs / "still")
    assert "2 DICOM series" in row["error"]


def test_a_result_says_what_made_it(runs, tmp_path):
    "Network, weights, factor, no medical device; what was said before stays."
    pixels = (blobs(40, 36) * 255).astype(np.uint8)
    notes = PngInfo()
    image = sitk.GetImageFromArray(thorax())
    notes.add_text("Patient", "7")
    notes.add_itxt("Ort", "Köln", "de")
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=notes)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", comment="from Köln")
    image.SetMetaData("ctsr", "something")
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(image, tmp_path / f"a{suffix}")
    as_nifti(tmp_path / "a.nii.gz", thorax())
    bare = nibabel.load(tmp_path / "a.nii.gz")
    bare.header["descrip"] = b""
    nibabel.save(bare, tmp_path / "bare.nii")
    as_dicom(tmp_path / "a.dcm", thorax()[0].clip(-1024, 3000))
    names = ("a.png", "a.jpg", "a.nrrd", "a.mha", "a.nii.gz", "bare.nii", "a.dcm")
    rows = upscale([tmp_path / n for n in names], tmp_path / "out", runs / "still")
    png, jpeg, nrrd, mha, nifti, bare, dicom = (
        f(str(row["out"]))
        for f, row in zip(
            (
                Image.open,
                Image.open,
                sitk.ReadImage,
                sitk.ReadImage,
                nibabel.load,
                nibabel.load,
                pydicom.dcmread,
            ),
            rows,
        )
    )
    extension = nifti.header.extensions[-1].get_content()
    said = (
        png.text["ctsr"],
        jpeg.info["comment"].decode(),
        nrrd.GetMetaData("ctsr"),
        mha.GetMetaData("ctsr"),
        extension if isinstance(extension, str) else extension.decode(),
        bare.header.extensions[-1].text,
        dicom.DerivationDescription,
    )
    weights = file_sha256(runs / "still" / "weights.safetensors")[:12]
    for text in said:
        assert all(
            word in text
            for word in (f"still (weights {weights}, factor 5.02, range ", "not a medical device")
        ), text
    assert (
        png.text["Patient"] == "7"
        and png.text["Ort"] == "Köln"
        and said[1].startswith("from Köln | ")
        and said[2].startswith("something | ")
    )
    assert nifti.header["descrip"].item() == b"a chest" and bare.header["descrip"].item() == (
        b"ctsr still; not a medical device"
    )
    again = nibabel.load(one(upscale([rows[5]["out"]], tmp_path / "again.nii", runs / "runet")))
    assert (
        len(again.header.extensions) == 2
        and again.header["descrip"] == bare.header["descrip"]
        and sitk.ReadImage(tmp_path / "again.nii").GetSize()[2] == 3
    )


# 4. Samples.


@pytest.mark.slow
def test_uncertainty_lies_beside_the_result(runs, tmp_path):
    "The standard deviation of the very samples that are averaged, in each format's own way."
    pixels = (blobs(24, 20) * 255).astype(np.uint8)
    hu = thorax(2, 24, 20).clip(*WINDOW).astype(np.int16)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.jpg", quality=100)
    as_nifti(tmp_path / "in" / "a.nii.gz", hu, "RAS")
    for z in range(2):
        as_dicom(
            tmp_path / "in" / "series" / f"{z}.dcm", hu[z], 4.0 * z, bits=16, signed=1, intercept=0
        )
    rows = upscale(
        [tmp_path / "in" / n for n in ("a.jpg", "a.nii.gz", "series")],
        tmp_path / "out",
        runs / "sr3",
        samples=3,
        uncertainty=True,
        steps=2,
    )
    assert not [r for r in rows if "error" in r]
    restorer, task = load_model(runs / "sr3", steps=2)

    def samples(x):
        return np.stack(
            [
                [
                    restorer.draw(s[None, None], task, [sample_names(s[None, None], 3)[n]])[0, 0, 0]
                    for s in x
                ]
                for n in range(3)
            ]
        )

    mine = samples(torch.from_numpy(hu + 1350.0).float() / 1500) * 1500
    nifti, aside = (
        axial(nibabel.load(tmp_path / "out" / n)) for n in ("a.nii.gz", "a.uncertainty.nii.gz")
    )
    assert (
        np.abs(nifti[0] - mine.mean(0) + 1350).max() < 0.6
        and np.allclose(aside[0], mine.std(0, ddof=1), atol=0.05)
        and np.allclose(nifti[1], aside[1])
    )
    assert nibabel.load(tmp_path / "out" / "a.uncertainty.nii.gz").get_data_dtype() == np.float32
    beside, given = (
        sitk.ReadImage(f)
        for f in (
            tmp_path / "out" / "series.uncertainty.nrrd",
            [str(tmp_path / "out" / "series" / f"{z}.dcm") for z in range(2)],
        )
    )
    assert np.allclose(sitk.GetArrayFromImage(beside), mine.std(0, ddof=1), atol=0.05)
    for get in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert np.allclose(getattr(beside, get)(), getattr(given, get)(), atol=1e-4), get
    picture = samples(
        torch.from_numpy(
            np.asarray(Image.open(tmp_path / "in" / "a.jpg"))[None].astype(np.float32) / 255
        )
    )[:, 0]
    found = np.asarray(Image.open(tmp_path / "out" / "a.uncertainty.png"))
    assert (
        found.dtype == np.uint16
        and np.abs(found / 65535 - picture.std(0, ddof=1)).max() < 1e-4
        and found.max() > 100
    )
    said = (
        beside.GetMetaData("ctsr"),
        Image.open(tmp_path / "out" / "a.uncertainty.png").text["ctsr"],
        nibabel.load(tmp_path / "out" / "a.uncertainty.nii.gz").header.extensions[-1].text,
    )
    assert all(text.startswith("Standard deviation of samples") for text in said)


@pytest.mark.slow
def test_a_result_says_how_its_samples_were_drawn(runs, tmp_path):
    "Sampler, steps, how many, seed, whatever the format; another seed is another picture."
    Image.fromarray((blobs(24, 20) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    sitk.WriteImage(sitk.GetImageFromArray(thorax(2, 24, 20)), tmp_path / "a.nrrd")
    as_nifti(tmp_path / "a.nii", thorax(2, 24, 20))
    bare = nibabel.load(tmp_path / "a.nii")
    bare.header["descrip"] = b""
    nibabel.save(bare, tmp_path / "a.nii.gz")
    as_dicom(tmp_path / "b.dcm", thorax(1, 24, 20)[0].clip(-1024, 3000))
    files = [tmp_path / name for name in ("a.png", "a.nrrd", "a.nii.gz", "b.dcm")]
    drawing = dict(sampler="dpm++", steps=2, seed=7)
    rows = upscale(files, tmp_path / "out", runs / "sr3", samples=2, uncertainty=True, **drawing)
    png, nrrd, nifti, dicom = (
        f(str(row["out"]))
        for f, row in zip((Image.open, sitk.ReadImage, nibabel.load, pydicom.dcmread), rows)
    )
    said = (
        png.text["ctsr"],
        nrrd.GetMetaData("ctsr"),
        nifti.header.extensions[-1].text,
        dicom.DerivationDescription,
        *(row["made"] for row in rows),
        Image.open(rows[0]["aside"]).text["ctsr"],
        sitk.ReadImage(rows[3]["aside"]).GetMetaData("ctsr"),
    )
    for text in said:
        assert "sampler dpm++, steps 2, samples 2, seed 7, tile 64, ctsr " in text, text
        assert "factor 2, range " in text, text
    assert "range 0 to 255," in said[0] and "range -1350 to 150," in said[1]
    assert nifti.header["descrip"].item() == b"ctsr sr3; not a medical device"
    one(upscale(files[:1], tmp_path / "one.png", runs / "sr3", **drawing, tile=64))
    assert "samples 1, seed 7, tile 64" in Image.open(tmp_path / "one.png").text["ctsr"]
    for seed in (7, 8):
        one(upscale(files[:1], tmp_path / f"{seed}.png", runs / "sr3", **drawing | dict(seed=seed)))
    seven, eight, again = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in (7, 8, "one"))
    assert (seven == again).all() and (seven != eight).any()


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(samples=4), "samples"),
        (dict(seed=1), "seed"),
        (dict(sampler="ddim"), "sampler"),
        (dict(model="sr3", sampler="euler"), "ddpm, ddim, dpm++"),
        (dict(model="sr3", seed=-1), "--seed must not be negative"),
        (dict(model="sr3", steps=0), "--steps must be from 1 to 2000"),
        (dict(uncertainty=True), "samples"),
        (dict(samples=0), "at least 1"),
        (dict(steps=4), "steps"),
        (dict(factor=5), "factor of 2"),
        (dict(factor=0), "factor of 2"),
        (dict(device="cuda:99"), "cuda:99"),
        (dict(tile=100), "multiple of 16"),
        (dict(window="long"), "long"),
        (dict(window=(0, 1e-320)), "WIDTH 1e-6 or more"),
        (dict(kernel=""), "unknown kernel ''"),
        (dict(model="runet-x99"), "no stored weights"),
        (dict(model="sr3", uncertainty=True), "--samples 8"),
        (dict(model="away.safetensors"), "away.safetensors"),
    ],
)
def test_settings_are_refused_before_anything_is_written(runs, tmp_path, change, word):
    noisy_png(tmp_path / "a.png")
    model = (
        runs / change["model"]
        if change.get("model") == "sr3"
        else change.get("model", runs / "runet")
    )
    with refused(word):
        upscale([tmp_path / "a.png"], tmp_path / "out" / "b.png", **change | dict(model=model))
    assert list(contents(tmp_path)) == ["a.png"]


def test_the_remedy_fits(runs, tmp_path):
    "Other models are named to those who asked for an unknown one, and to nobody else."
    pack_as(runs / "still", tmp_path / "stored")
    with refused("no stored weights", "--model also"):
        load_model("other", folder=tmp_path / "stored")
    for change in (dict(device="cuda:99"), dict(steps=4)):
        with pytest.raises(CTSRError) as caught:
            load_model("still", folder=tmp_path / "stored", **change)
        assert "--model" not in str(caught.value)


@pytest.mark.slow
def test_stored_weights_that_draw_samples(runs, tmp_path):
    "Drawn as the card says, averaged, with their deviation; the line says it all."
    pack(
        runs / "sr3",
        "sr3-small",
        {},
        "phantom: none needed",
        tmp_path / "stored",
        sampling=dict(sampler="dpm++", steps=3, k=4, project=10),
    )
    hu = thorax(2, 30, 32).clip(*WINDOW).astype(np.int16)  # its result fits into one tile
    Image.fromarray((blobs(40, 36) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    as_nifti(tmp_path / "b.nii.gz", hu)
    given = (
        tmp_path / "a.png",
        tmp_path / "b.nii.gz",
        "--model",
        tmp_path / "stored" / "sr3-small.safetensors",
    )
    done = ctsr_upscale(*given, "-o", tmp_path / "out", "--samples", 3, "--uncertainty")
    made = f"by sr3-small (weights {file_sha256(given[-1])[:12]}, factor 2, range "
    how = "sampler dpm++, steps 3, samples 3, seed 0, "
    assert (
        done.returncode == 0
        and done.stdout.count(made) == done.stdout.count(how) == 2
        and done.stdout.count("uncertainty: ") == 2
    ), done.stdout + done.stderr
    assert sorted(contents(tmp_path / "out")) == [
        "a.png",
        "a.uncertainty.png",
        "b.nii.gz",
        "b.uncertainty.nii.gz",
    ]
    restorer, task = load_model("sr3-small", folder=tmp_path / "stored")
    x = torch.from_numpy((hu + 1350).astype(np.float32) / 1500)[:, None]
    mine = (
        np.stack(
            [
                [restorer.draw(s[None], task, [sample_names(s[None], 3)[n]])[0, 0, 0] for s in x]
                for n in range(3)
            ]
        )
        * 1500
        - 1350
    )
    mean, spread = (
        axial(nibabel.load(tmp_path / "out" / n))[0] for n in ("b.nii.gz", "b.uncertainty.nii.gz")
    )
    assert (
        np.abs(mean - mine.mean(0)).max() < 0.6
        and np.allclose(spread, mine.std(0, ddof=1), atol=0.05)
        and spread.max() > 1
    )
    done = ctsr_upscale(*given, "-o", tmp_path / "one", "--seed", 3, "--steps", 2)
    assert done.returncode == 0 and done.stdout.count("steps 2, samples 1, seed 3, ") == 2, (
        done.stdout + done.stderr
    )


def test_samples_are_drawn_as_a_study_chose(runs, tmp_path):
    "By `evaluate/RUN--TASK/choice.json`; what is asked for comes first."
    shutil.copytree(runs / "sr3", tmp_path / "train" / "sr3")

    def how(model, **drawing):
        return (lambda r: (r.sampler, r.steps))(load_model(model, **drawing)[0])

    run = tmp_path / "train" / "sr3"
    choice = tmp_path / "evaluate" / "sr3--x2" / "choice.json"
    assert how(run) == how(run / "weights.safetensors") == ("ddim", 5)
    choice.parent.mkdir(parents=True)
    save_json(choice, dict(sampler="dpm++", steps=3, k=4, project=10))
    assert (
        how(run) == how(run / "weights.safetensors") == ("dpm++", 3)
        and how(run, steps=2) == ("dpm++", 2)
        and how(runs / "sr3") == ("ddim", 5)
    )
    choice.write_text("[")
    with refused(choice, "evaluate the run again"):
        load_model(run)


def test_a_factor_chooses_the_network(runs, tmp_path):
    "5 is 256/51; a factor that no stored network is for is refused with the names of all."
    named = {None: "blind-x2", 2: "blind-x2", 5: "blind-x5", 5.02: "blind-x5", 8: "blind-x8"}
    for factor, name in named.items():
        assert load_model(None, factor)[0].name == name
    with refused("factor of 3", "runet-x2 (2)", "runet-x5 (5.02)"):
        load_model(None, 3)
    with refused("factor of 2", "not 5", "runet-x5 (5.02)"):
        load_model("runet-x2", 5)
    with refused("no stored weights 'runet-x9'", "runet-x5 (5.02)", "--model also"):
        load_model("runet-x9")
    noisy_png(tmp_path / "a.png")
    for named, name in ((("--factor", 5), "blind-x5"), (("--model", "runet-x5"), "runet-x5")):
        done = ctsr_upscale(tmp_path / "a.png", "-o", tmp_path / f"{name}.png", *named)
        assert (
            done.returncode == 0
            and f"201 x 201 px, by {name} (weights" in done.stdout
            and "factor 5.02, range 0 to 255" in done.stdout
            and ("aliased images" in done.stderr) == (name == "runet-x5")
        ), done.stdout + done.stderr


def test_the_range_of_the_body_is_restored_and_sr3_keeps_its_window(runs, tmp_path):
    "Bone comes from the network and metal from bicubic; the line says what the network saw."
    hu = thorax(1, 40, 36).clip(-1024, 3000)
    as_dicom(tmp_path / "a.dcm", hu[0])
    as_nifti(tmp_path / "a.nii", hu)
    for name in ("a.dcm", "a.nii"):
        (row,) = upscale([tmp_path / name], tmp_path / "out" / name, runs / "runet")
        assert "range -1024 to 1500," in row["made"]
        (row,) = upscale([tmp_path / name], tmp_path / "sr3" / name, runs / "sr3", steps=2)
        assert "range -1350 to 150," in row["made"]
    restorer, task = load_model(runs / "runet")
    x = torch.from_numpy(hu.astype(np.float32))[None]
    seen = x.clamp(*BODY)
    network = restorer((seen + 1024) / 2524, task)[0, 0].numpy() * 2524 - 1024
    bicubic = F.interpolate(x - seen, (80, 72), mode="bicubic")[0, 0].numpy()
    made = axial(nibabel.load(tmp_path / "out" / "a.nii"))[0][0]
    assert np.abs(made - network - bicubic).max() < 0.6
    plain = F.interpolate(x, (80, 72), mode="bicubic")[0, 0].numpy()
    bone = (plain > 300) & (plain < 1400)
    assert bone.any() and np.abs(made - plain)[bone].mean() > 5, "the network restores bone"


def test_back_projection_helps_with_the_right_kernel(runs, tmp_path):
    "The result, reduced with the kernel, is the given slice; unknown kernels are refused."
    fine = thorax(1, 80, 72).astype(np.float32)
    lr = downsample(torch.from_numpy(fine)[None], (40, 36), "box")[0].numpy()
    as_nifti(tmp_path / "a.nii", lr)
    errors = {}
    for kernel in (None, "box", "gaussian:0.8"):
        (row,) = upscale(
            [tmp_path / "a.nii"], tmp_path / "b.nii", runs / "runet", kernel=kernel, force=True
        )
        assert ("kernel" in row["made"]) == bool(kernel) and (kernel or "") in row["made"]
        made = axial(nibabel.load(row["out"]))[0]
        errors[kernel] = np.abs(made - fine).mean()
        if kernel == "box":
            again = downsample(torch.from_numpy(made)[None].float(), (40, 36), kernel)[0].numpy()
            assert np.abs(again - lr).mean() < 2
    assert errors["box"] < errors[None] < errors["gaussian:0.8"]
    for wrong in ("boxes", "gaussian", "gaussian:-1", "box:2"):
        with refused(wrong, "gaussian:0.5"):
            upscale([tmp_path / "a.nii"], tmp_path / "c.nii", runs / "runet", kernel=wrong)


def test_every_slice_has_noise_of_its_own(runs, tmp_path):
    "A slice comes out the same alone and in its volume; another slice draws another texture."
    same = blobs(24, 20) * 1000 - 1100
    hu = np.stack([same, same + 1, same]).round().astype(np.int16)
    for name, part in dict(whole=hu, alone=hu[1:2]).items():
        as_nifti(tmp_path / f"{name}.nii", part)
    whole, alone = (
        axial(nibabel.load(row["out"]))[0]
        for row in upscale(
            [tmp_path / "whole.nii", tmp_path / "alone.nii"],
            tmp_path / "out",
            runs / "sr3",
            steps=2,
        )
    )
    assert (whole[1] == alone[0]).all() and (whole[0] == whole[2]).all()
    assert np.abs(whole[0] + 1 - whole[1]).max() > 5


def test_inputs_unlike_the_training_are_named(runs, tmp_path):
    "By the bounds of the card; the authors' own variant is not offered."
    card = json.loads((runs / "runet" / "config.json").read_text())
    folder = tmp_path / "other"
    shutil.copytree(runs / "runet", folder)
    Image.fromarray((blobs(64, 64) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    bounds = {"50% quantile": [0.0, 1.0], "noise": [0.3, 0.4]}
    save_json(folder / "config.json", card | dict(inputs=bounds, kernel="aliased"))
    done = ctsr_upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--model", folder)
    assert done.returncode == 0 and done.stderr.count("ctsr: warning: ") == 2, done.stderr
    assert "little noise" in done.stderr and "aliased images" in done.stderr
    (row,) = upscale([tmp_path / "a.png"], tmp_path / "c.png", runs / "runet")
    assert row["cautions"] == []
    coded = dict(name="runet", width=1 / 16, in_channels=3, variant="as_coded")
    save_tensors(tmp_path / "coded" / "weights.safetensors", build_model(coded).state_dict())
    save_json(
        tmp_path / "coded" / "config.json",
        dict(model=coded, up="bilinear", task=X2, precision="fp32"),
    )
    with refused("-33 HU", "choose other weights"):
        load_model(tmp_path / "coded")


# 5. Nothing is written over; the command says what it is.


@pytest.mark.slow
def test_nothing_is_written_over_unasked(runs, tmp_path):
    (tmp_path / "else").mkdir()
    for name in ("a.png", "b.png", "c.png", "else/a.png"):
        noisy_png(tmp_path / name)
    for z in range(2):
        as_dicom(tmp_path / "in" / f"{z}.dcm", thorax()[z].clip(-1024, 3000), 4.0 * z)
    as_dicom(tmp_path / "old" / "9.dcm", thorax()[0].clip(-1024, 3000))
    before = contents(tmp_path)
    still = runs / "still"
    failed(upscale([tmp_path / "a.png"], tmp_path / "b.png", still), "b.png", "--force")
    failed(upscale([tmp_path / "a.png"], tmp_path / "a.png", still, force=True), "an input")
    assert [
        "an input" in row["error"]
        for row in upscale([tmp_path / "a.png", tmp_path / "b.png"], tmp_path, still, force=True)
    ] == [True, True]
    for force in (False, True):
        failed(
            upscale([tmp_path / "in"], tmp_path / "old", still, force=force), "old", "other things"
        )  # somebody's series
    failed(upscale([tmp_path / "in"], tmp_path, still, force=True), "other things")
    namesakes = [tmp_path / "a.png", tmp_path / "else" / "a.png"]
    rows = upscale(namesakes, tmp_path / "out", still)
    assert ["two results" in row["error"] for row in rows] == [True, True]
    with refused("same kind"):
        upscale([tmp_path / "a.png"], tmp_path / "a.jpg", still)
    with refused("folder"):
        upscale([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "d.png", still)
    for name in ("x.png", "x.nii.gz", "x.mhd", "x.TIF"):
        with refused(name, "9.dcm", "same kind"):
            upscale([tmp_path / "old" / "9.dcm"], tmp_path / name, still)
        with refused(name, "folder of DICOM"):
            upscale([tmp_path / "in"], tmp_path / name, still)
        with refused(name, "several"):
            upscale([tmp_path / "in", tmp_path / "old" / "9.dcm"], tmp_path / name, still)
    with refused("x.dcm", "folder of DICOM"):
        upscale([tmp_path / "in"], tmp_path / "x.dcm", still)
    assert contents(tmp_path) == before
    upscale([tmp_path / "a.png"], tmp_path / "b.png", still, force=True)
    after = contents(tmp_path)
    assert (
        after.keys() == before.keys()
        and after["b.png"] != before["b.png"]
        and after["c.png"] == before["c.png"]
    )
    one(upscale([tmp_path / "in"], tmp_path / "made", still))
    failed(upscale([tmp_path / "in"], tmp_path / "made", still), "made", "--force")
    made = contents(tmp_path / "made")
    one(
        upscale([tmp_path / "in"], tmp_path / "made", runs / "runet", force=True)
    )  # of what was made here, another may take the place
    assert contents(tmp_path / "made").keys() == made.keys() and contents(tmp_path / "made") != made
    one(upscale([tmp_path / "in"], tmp_path / "made", still, force=True))
    assert contents(tmp_path / "made") == made, "identifiers included"


def test_what_is_there_already_does_not_stop_the_rest(runs, tmp_path):
    "The same command goes on after an interrupt."
    for name in ("a.png", "b.png"):
        noisy_png(tmp_path / name)
    one(upscale([tmp_path / "a.png"], tmp_path / "out" / "a.png", runs / "still"))
    told = []
    before = (tmp_path / "out" / "a.png").read_bytes()
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    there, made = rows = upscale(files, tmp_path / "out", runs / "still", tell=told.append)
    assert (
        there == dict(path=files[0], before=tmp_path / "out" / "a.png")
        and made["out"].exists()
        and told == rows
    )
    assert (tmp_path / "out" / "a.png").read_bytes() == before
    (again,), (first, _) = (
        upscale(files[1:], tmp_path / "out", runs / "still"),
        upscale(files, tmp_path / "out", runs / "runet", force=True),
    )
    assert (
        "before" in again
        and first["size"] == (80, 80)
        and (tmp_path / "out" / "a.png").read_bytes() != before
    )
    as_dicom(tmp_path / "s" / "1.dcm", thorax()[0].clip(-1024, 3000))
    (
        (tmp_path / "out" / "s").mkdir(),
        one(upscale([tmp_path / "s"], tmp_path / "out" / "s", runs / "still")),
    )  # an empty folder is no result
    series, other = upscale([tmp_path / "s", files[0]], tmp_path / "out", runs / "still")
    assert "before" in series and "made with other settings" in other["error"], (
        "of another network, which is no result of this command"
    )
    failed(
        upscale([tmp_path / "s"], tmp_path / "out" / "s", runs / "still"), "--force"
    )  # which is named
    (tmp_path / "out" / "s" / "note.txt").write_text("mine")
    assert (
        "other things"
        in upscale([tmp_path / "s", files[0]], tmp_path / "out", runs / "still")[0]["error"]
    )


OTHER = dict(
    window=(0, 1000),
    kernel="box",
    tile=128,
    sampler="ddpm",
    steps=3,
    samples=3,
    seed=1,
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a.png", "a.nii.gz", "a.mha", "series"])
def test_other_settings_are_not_done_before(runs, tmp_path, kind):
    "Whatever the format, and however much else its header holds; the same settings are done."
    given = tmp_path / "in" / kind
    given.parent.mkdir()
    hu = thorax(2, 24, 20).clip(-1024, 3000)
    if kind == "series":
        for z in range(2):
            as_dicom(given / f"{z}.dcm", hu[z], 4.0 * z, z + 1)
    elif kind == "a.mha":
        sitk.WriteImage(sitk.GetImageFromArray(hu), given)
    elif kind == "a.png":
        Image.fromarray((blobs(24, 20) * 65535).astype(np.uint16)).save(given)
    else:
        as_nifti(given, hu)
        large = nibabel.load(given)
        noise = np.random.default_rng(0).bytes(2**21)
        large.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", noise))
        nibabel.save(large, given)
    noisy_png(tmp_path / "other.png")
    files = [given, tmp_path / "other.png"]  # with several, what is done is passed over
    usual = dict(model=runs / "sr3", steps=2, samples=2, uncertainty=True)

    def run(settings):
        rows = upscale(files, tmp_path / "out", **settings)
        return next(row for row in rows if row["path"] == given)

    assert "out" in run(usual) and "before" in run(usual)
    before = contents(tmp_path / "out")
    other = OTHER | (dict(window=(30000, 30000)) if kind == "a.png" else {})  # grey levels
    for name, value in other.items():
        assert "made with other settings" in run(usual | {name: value})["error"], name
    assert "made with other settings" in run(dict(model=runs / "runet"))["error"]
    assert contents(tmp_path / "out") == before
    changed = usual | dict(seed=1)
    assert "out" in run(changed | dict(force=True)) and "before" in run(changed)
    assert "error" in run(usual)


def test_a_result_made_in_two_steps_is_known_by_the_last(runs, tmp_path):
    "It keeps what was said of the first step, which is no reason to call the first one done."
    Image.fromarray((blobs(24, 20) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    noisy_png(tmp_path / "b.png")
    first = one(upscale([tmp_path / "a.png"], tmp_path / "one" / "a.png", runs / "runet"))
    one(upscale([first], tmp_path / "two" / "a.png", runs / "still"))
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    again = upscale(files, tmp_path / "two", runs / "runet")
    assert "made with other settings" in again[0]["error"]


def test_a_failure_while_writing_leaves_what_was_there(runs, tmp_path, monkeypatch):
    noisy_png(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"precious")

    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    (row,) = upscale([tmp_path / "a.png"], tmp_path / "b.png", runs / "still", force=True)
    assert (
        "No space left" in row["error"]
        and (tmp_path / "b.png").read_bytes() == b"precious"
        and len(list(tmp_path.iterdir())) == 2
    )


@pytest.mark.parametrize(
    "error, remedy",
    [
        (RuntimeError("can't allocate memory: you tried to"), "try a smaller --tile"),
        (RuntimeError("dmin <= dmax"), "leave it out"),
    ],
)
def test_whatever_a_library_says_costs_only_that_file(runs, tmp_path, monkeypatch, error, remedy):
    "What a library raises, out of memory for instance, is one line; the next file is done."
    for n in "ab":
        noisy_png(tmp_path / f"{n}.png")
    whole = restore_slice
    wrong = [error]

    def failing(*args, **kwargs):
        if wrong:
            raise wrong.pop()
        return whole(*args, **kwargs)

    monkeypatch.setattr(importlib.import_module("ctsr.apps.upscale"), "restore_slice", failing)
    bad, good = upscale([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out", runs / "still")
    assert (
        "a.png" in bad["error"]
        and remedy in bad["error"]
        and list(contents(tmp_path / "out")) == ["b.png"]
        and "out" in good
    )


def test_a_link_to_a_folder_leads_there(runs, tmp_path):
    as_dicom(tmp_path / "s" / "1.dcm", thorax()[0].clip(-1024, 3000))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for _ in range(2):
        one(upscale([tmp_path / "s"], tmp_path / "link", runs / "still", force=True))
    assert (
        (tmp_path / "link").is_symlink()
        and list(contents(tmp_path / "real")) == ["1.dcm"]
        and len(list(tmp_path.iterdir())) == 3
    )


def test_the_command(runs, tmp_path):
    "Weights as a file, a batch in which one fails: a line each, exit status 2."
    noisy_png(tmp_path / "a.png")
    Image.new("RGB", (30, 30), (9, 9, 60)).save(tmp_path / "b.png")
    weights = runs / "runet" / "weights.safetensors"
    done = ctsr_upscale(
        tmp_path / "a.png",
        tmp_path / "b.png",
        "-o",
        tmp_path / "out",
        "--model",
        weights,
        "--factor",
        2,
    )
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and done.stderr.startswith("ctsr: ")
        and "colour" in done.stderr
    ), done.stderr
    assert "80 x 80 px" in done.stdout and list(contents(tmp_path / "out")) == ["a.png"]
    done = ctsr_upscale(tmp_path / "a.png", "-o", tmp_path / "out", "--model", weights)
    assert (
        done.returncode == 0
        and not done.stderr
        and "1 done before" in done.stdout
        and "80 x 80" not in done.stdout
    ), done.stderr
    done = ctsr_upscale(
        tmp_path / "a.png", "-o", tmp_path / "c.png", "--model", weights, "--factor", 5
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "factor of 2" in done.stderr
    for extra, words in ((["--dry-run"], "c.png: 80 x 80 px"), (["--dry-run", "--quiet"], "")):
        files = [tmp_path / "a.png", "-o", tmp_path / "c.png", "--model", weights]
        done = ctsr_upscale(*files, *extra)
        assert done.returncode == 0 and not done.stderr and not (tmp_path / "c.png").exists()
        assert words in done.stdout and bool(done.stdout) == bool(words)
    for extra, lines in ((["--verbose"], True), ([], False)):
        done = ctsr_upscale(tmp_path / "a.png", "-o", tmp_path / "c.png", "--force", *extra)
        said = done.stdout.splitlines()[1:]
        assert any(line.startswith("  trained on: 613 pictures") for line in said) == lines
        assert any(re.match(r"  noise: \S+ \(training images: ", line) for line in said) == lines
    (tmp_path / "c.png").unlink()
    done = ctsr_upscale(
        tmp_path / "a.png", "-o", tmp_path / "c.png", "--model", weights, "--window", "40,400"
    )
    assert done.returncode == 0 and not done.stderr and (tmp_path / "c.png").exists(), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_is_one_line(runs, tmp_path, with_stops, stop):
    "What was finished stays, and nothing else."
    for name in ("a.png", "b.png"):
        noisy_png(tmp_path / name, (1200, 1200) if name == "b.png" else (40, 40))
    given = [tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out"]
    given += ["--model", runs / "runet", "--tile", "64"]
    # a shell in the background ignores the signal
    with start_ctsr("upscale", *given, preexec_fn=with_stops) as process:
        while not (tmp_path / "out" / "a.png").exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(stop)
        stopped = time.time()
        said = process.communicate(timeout=60)[1]
    print(f"ended {time.time() - stopped:.1f} s after {stop.name}")
    assert process.returncode == 130 and said.splitlines()[-1].startswith("ctsr: interrupted"), said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "out"]


# 6. Any size in bounded memory.


@pytest.mark.slow
def test_tiled_is_whole_away_from_borders_and_at_them(runs):
    "A picture of four tiles, none of its sides a multiple of 16."
    x = torch.from_numpy(blobs(431, 395))[None, None]
    task = Task(**X2)
    whole = load_model(runs / "runet")[0](x, task)
    parts = tiled(load_model(runs / "runet")[0])(x, task)
    assert (
        whole.shape[-2:] == (862, 790)
        and not torch.equal(whole, parts)
        and (whole - parts).abs().max() < 1e-3
    )
    assert (whole - F.interpolate(x, (862, 790), mode="bilinear")).abs().max() > 0.01, (
        "the network changed nothing: the test shows nothing"
    )


@pytest.mark.parametrize("size", [(1, 400), (25, 200), (400, 30)])
def test_long_and_thin(runs, size):
    "One side takes several tiles, the other not even one."
    x = torch.from_numpy(blobs(*size))[None, None]
    task = Task(**X2)
    whole = load_model(runs / "runet")[0](x, task)
    parts = tiled(load_model(runs / "runet")[0], 256)(x, task)
    assert parts.isfinite().all() and (whole - parts).abs().max() < 5e-3


@pytest.mark.slow
def test_tiles_of_a_sampler_agree_approximately(runs):
    "Exactly in one tile, else to a part of what samples differ by; no seam is added."
    task = Task(**X2)
    ids = ["one", "other"]
    whole = load_model(runs / "sr3", steps=3)[0]
    parts = tiled(load_model(runs / "sr3", steps=3)[0], 128)
    small, large = (torch.from_numpy(blobs(n, n))[None, None] for n in (64, 128))
    assert torch.equal(whole(small, task, ids[:1]), parts(small, task, ids[:1]))
    a = whole(large, task, ids[:1])
    b = parts(large, task, ids[:1])
    other = whole(large, task, ids[1:])
    off = (a - b).abs() * 255
    noise = (a - other).abs().mean() * 255
    inside = off[..., 32:80, 32:80]
    seam = off[..., 96:128, :]  # tiles of 128 begin at 0, 96 and 192
    assert (
        0 < inside.mean() < noise / 5 and off.mean() < noise / 5 and seam.mean() < 2 * off.mean()
    ), (inside.mean(), off.mean(), seam.mean(), noise)
    assert off.max() < 2, "grey levels of 256; of a larger network 11, see the lesson"


UPSCALE = """
import sys
from ctsr.apps.upscale import upscale

path, model, results = sys.argv[1:]
for out, settings in eval(results).items():
    (row,) = upscale([path], out, model, **settings)
    assert row["size"] == (1536, 1536), row
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(status["VmHWM"].split()[0])
"""


def peak_memory(path, model, results) -> list:
    """Bytes that a process has taken at most after each picture of 1536 x 1536 px.

    `results` are settings by the name of the file; the one that needs most memory comes last.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which is not here")
    Image.fromarray((blobs(768, 768) * 255).astype(np.uint8)).save(path)
    command = [sys.executable, "-c", UPSCALE, path, model, repr(results)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line) * 1024 for line in done.stdout.split()]


@pytest.mark.slow
def test_samples_of_a_large_picture_in_bounded_memory(tmp_path):
    "By an SR3 as deep as the study's, but narrow."
    narrow = dict(name="sr3", channels=4)
    save_tensors(tmp_path / "run" / "weights.safetensors", build_model(narrow).state_dict())
    task = dict(name="x2", hr=256, lr=128)
    card = dict(model=narrow, up="bicubic", mean=0.5, std=0.5, task=task, precision="bf16")
    save_json(tmp_path / "run" / "config.json", card)
    how = dict(steps=1, samples=2, uncertainty=True)
    (peak,) = peak_memory(tmp_path / "a.png", tmp_path / "run", {f"{tmp_path}/b.png": how})
    assert peak < 1.25 * 2**30
    for name in ("b.png", "b.uncertainty.png"):
        assert Image.open(tmp_path / name).size == (1536, 1536)


@pytest.mark.slow
def test_a_large_picture_in_four_gibibytes(runs, tmp_path):
    "In one piece it takes more than in tiles."
    results = {f"{tmp_path}/{tile}.png": dict(tile=tile) for tile in (768, 1536)}
    in_tiles, whole = peak_memory(tmp_path / "a.png", runs / "runet", results)
    assert in_tiles < 4 * 2**30 and in_tiles < whole
    with Image.open(tmp_path / "768.png") as a, Image.open(tmp_path / "1536.png") as b:
        assert a.size == (1536, 1536) and np.abs(np.asarray(a).astype(int) - b).max() <= 1


def test_networks_that_are_named_are_stored(root):
    "By the command's default, the README, the site's pages; what has a path is a run of one's own."
    pages = [root / "README.md", *(root / "nbs" / "site" / "pages").rglob("*.md")]
    named = {
        m for page in pages for m in re.findall(r"--model ([\w.-]+)(?![\w./-])", page.read_text())
    }
    assert named | {model_for()} <= {
        p.stem for p in (root / "ctsr" / "weights").glob("*.safetensors")
    }
