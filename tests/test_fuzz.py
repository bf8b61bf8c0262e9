"""Files with random damage: one line or the right volume, and nothing in between.

Each case takes a good file and changes a few bytes, most of them in the header, or cuts it. It
must be refused by a `CTSRError` of one line, or be read as an independent reader reads the same
damaged file. Checksums are made right again in half the cases, since they would hide everything
behind them. `CTSR_FUZZ` sets the number of cases for each format.
"""

import gzip
import os
import tracemalloc
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.data import get_testdata_file

from ctsr.core.errors import CTSRError
from ctsr.data.readers import _decode
from ctsr.data.volumes import hounsfield, load_file, read_slice

CASES = int(os.environ.get("CTSR_FUZZ", 100))


def thorax():
    rng = np.random.default_rng(0)
    return rng.integers(-1000, 900, (4, 24, 20)).astype(np.int16)


def write_nifti(path):
    image = nibabel.Nifti1Image(thorax().T, np.diag([-0.5, -0.5, 5, 1]))
    nibabel.save(image, path)


def write_itk(path):
    sitk.WriteImage(sitk.GetImageFromArray(thorax()), path)


def write_packed(path):
    sitk.WriteImage(sitk.GetImageFromArray(thorax()), path, useCompression=True)


def write_dicom(path):
    pydicom.dcmread(get_testdata_file("CT_small.dcm")).save_as(path)


def write_png(path):
    Image.fromarray((thorax()[0] + 1000).astype(np.uint16) * 30).save(path)


def read_volume(path):
    return load_file(path).stored


def read_dicom(path):
    return hounsfield(read_slice(path))


def their_nifti(path):
    image = nibabel.load(path)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        header = type(image.header).from_fileobj(file)  # that of the image has no slope any more
    slope, inter = (float(header[k]) for k in ("scl_slope", "scl_inter"))
    raw = np.asanyarray(image.dataobj.get_unscaled())
    if not slope or not np.isfinite(slope):
        slope, inter = 1.0, 0.0
    inter = inter if np.isfinite(inter) else 0.0
    raw = raw.reshape((*raw.shape, 1, 1)[:3])
    if (slope, inter) == (1, 0):
        return raw
    return raw * np.float32(slope) + np.float32(inter)


def their_itk(path):
    kind = "NrrdImageIO" if path.suffix == ".nrrd" else "MetaImageIO"
    image = sitk.ReadImage(path, imageIO=kind)
    values = sitk.GetArrayFromImage(image).T
    return values if image.GetDimension() == 3 else values[..., None]


def their_packed(path):
    "ITK's values, where zlib can unpack them: ITK itself says nothing if it cannot."
    end = b"\n\n" if path.suffix == ".nrrd" else b"ElementDataFile = LOCAL\n"
    unpacker = zlib.decompressobj(wbits=47)
    unpacker.decompress(path.read_bytes().partition(end)[2])
    assert unpacker.eof, "the packed values have no end"
    return their_itk(path)


def their_dicom(path):
    d = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in d.file_meta:
        d.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    slope = d.get("RescaleSlope")
    slope = 1 if slope in (None, "") else slope
    unused = d.BitsAllocated - d.BitsStored
    numbers = (d.pixel_array << unused) >> unused
    return numbers * float(slope) + float(d.get("RescaleIntercept") or 0)


def their_png(path):
    with Image.open(path) as image:
        return np.asarray(image)


FORMATS = {  # suffix, writer, header's length, our reader, an independent one
    "nifti": (".nii", write_nifti, 352, read_volume, their_nifti),
    "nifti-packed": (".nii.gz", write_nifti, 60, read_volume, their_nifti),
    "nrrd": (".nrrd", write_itk, 400, read_volume, their_itk),
    "mha": (".mha", write_itk, 300, read_volume, their_itk),
    "mha-packed": (".mha", write_packed, 300, read_volume, their_packed),
    "nrrd-packed": (".nrrd", write_packed, 400, read_volume, their_packed),
    "dicom": (".dcm", write_dicom, 6000, read_dicom, their_dicom),
    "png": (".png", write_png, 60, lambda p: _decode(p)[0], their_png),
}


def damaged(data: bytes, header: int, rng) -> bytes:
    "The bytes of a file with one kind of damage."
    kind = rng.integers(5)
    if kind == 0:
        return data[: rng.integers(1, len(data))]
    changed = bytearray(data)
    span = len(data) if kind == 1 else min(header, len(data))
    for at in rng.integers(0, span, rng.integers(1, 5)):
        if kind == 2:
            changed[at] ^= 1 << rng.integers(8)
        else:
            changed[at] = rng.choice([0, 1, 32, 45, 48, 57, 127, 128, 255, rng.integers(256)])
    if kind == 4:
        at = rng.integers(span)
        del changed[at : at + rng.integers(1, 9)]
    return bytes(changed)


def sealed_png(data: bytes) -> bytes:
    "The same PNG with right checksums, as far as its chunks can be followed."
    sealed = bytearray(data)
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        sealed[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(sealed)


def case(name: str, good: bytes, header: int, rng) -> bytes:
    "A damaged file; every second one has right checksums."
    seal = rng.integers(2)
    if seal and name == "nifti-packed":
        return gzip.compress(damaged(gzip.decompress(good), 352, rng), 1)
    data = damaged(good, header, rng)
    return sealed_png(data) if seal and name == "png" else data


def outcome(path, ours, theirs) -> str:
    "Read a damaged file; anything but a refusal or the values of another reader fails."
    try:
        found = ours(path)
    except CTSRError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return "refused"
    expected = theirs(path)
    if found.dtype == np.uint8 and path.suffix == ".png":  # windowed by us
        assert found.shape == expected.shape[:2]
        return "read"
    assert found.shape == expected.shape
    assert np.allclose(found, expected, rtol=1e-4, atol=0.1)
    return "read"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_refused_or_read_as_others_read_it(tmp_path, name):
    suffix, write, header, ours, theirs = FORMATS[name]
    path = tmp_path / f"a{suffix}"
    write(path)
    good = path.read_bytes()
    assert outcome(path, ours, theirs) == "read"
    count = dict(refused=0, read=0)
    for seed in range(CASES):
        path.write_bytes(case(name, good, header, np.random.default_rng(seed)))
        try:
            count[outcome(path, ours, theirs)] += 1
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {type(error).__name__} {error}") from error
    print(name, count)
    assert min(count.values()) > 0, "the damage never mattered, or always"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_memory_is_bounded_by_the_promise(tmp_path):
    "A small promise in front of 64 MB of packed zeros; a promise of terabytes in a small file."
    stored = thorax().T
    path = tmp_path / "a.nii"
    write_nifti(path)
    data = path.read_bytes()
    with gzip.open(tmp_path / "bomb.nii.gz", "wb") as file:
        file.write(data)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    assert np.array_equal(load_file(tmp_path / "bomb.nii.gz").stored, stored)
    assert tracemalloc.get_traced_memory()[1] < 16e6
    tracemalloc.stop()
    header = bytearray(data)
    header[42:48] = np.array([30_000] * 3, "<i2").tobytes()
    path.write_bytes(header)
    with pytest.raises(CTSRError, match="GB of memory"):
        load_file(path)
