"One reader for `ctsr data` and `ctsr upscale`: what it reads, and what both refuse for one reason."

import gzip
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from ctsr.apps.formats import open_scan, write_slice
from ctsr.apps.upscale import restore_slice
from ctsr.core.errors import CTSRError
from ctsr.data.degrade import Task
from ctsr.data.volumes import dicom_series, hounsfield, load_file, read_slice, read_volume


def ramp(slices=3, height=12, width=10):
    "Values in HU, all slices different."
    hu = np.linspace(-1000, 900, slices * height * width).reshape(slices, height, width)
    return hu.round().astype(np.int16)


def ct(hu, z=0.0, number=1, slope=1, intercept=-1024, bits=12, **tags):
    "A slice of a scanner, not saved."
    d = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    d.SeriesInstanceUID = "1.2.3"
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    d.InstanceNumber = number
    d.ImagePositionPatient = [-10, -20, z]
    d.PixelSpacing = [0.5, 0.5]
    d.Rows, d.Columns = hu.shape
    d.BitsStored = bits
    d.HighBit = bits - 1
    d.PixelRepresentation = 0
    d.RescaleSlope = slope
    d.RescaleIntercept = intercept
    d.PixelData = np.round((hu - intercept) / slope).astype("<u2").tobytes()
    del d.PixelPaddingValue
    for k, v in tags.items():
        setattr(d, k, v)
    return d


def series(folder, hu, **tags):
    folder.mkdir(parents=True)
    for z, plane in enumerate(hu):
        ct(plane, 5.0 * z, z + 1, **tags).save_as(folder / f"{9 - z}.dcm")
    return folder


def nifti(path, stored, **header):
    image = nibabel.Nifti1Image(stored, np.diag([-0.5, -0.5, 5, 1]))
    nibabel.save(image, path)
    data = bytearray(path.read_bytes())
    for name, value in header.items():
        dtype, offset = nibabel.Nifti1Header.template_dtype.fields[name]
        data[offset : offset + dtype.itemsize] = np.array(value, dtype.base).tobytes()
    path.write_bytes(data)
    return path


def reason(function, *args):
    with pytest.raises(CTSRError) as caught:
        function(*args)
    said = str(caught.value)
    assert "\n" not in said
    return said


# 1. Both commands refuse the same files for the same reason.


def zero_slope(folder):
    for file in series(folder, ramp()).iterdir():
        d = pydicom.dcmread(file)
        d.RescaleSlope = 0
        d.save_as(file)


def decimal_comma(folder):
    for file in series(folder, ramp()).iterdir():
        file.write_bytes(file.read_bytes().replace(b"-1024.0 ", b"-1024,0 "))


BOTH = {
    "MR": (lambda p: series(p, ramp(), Modality="MR"), "modality MR"),
    "inverted": (
        lambda p: series(p, ramp(), PhotometricInterpretation="MONOCHROME1"),
        "MONOCHROME1",
    ),
    "no rescale": (lambda p: series(p, ramp() + 1024, intercept=0), "names no intercept"),
    "slope of 0": (zero_slope, "slope of 0"),
    "decimal comma": (decimal_comma, "RescaleIntercept '-1024,0'"),
    "pixels of two shapes": (lambda p: series(p, ramp(), PixelSpacing=[0.5, 2]), "square"),
    "frames": (lambda p: series(p, ramp(), NumberOfFrames=2), "multi-frame"),
}
FILES = {
    "label map": (lambda p: nifti(p, (ramp() > 0).astype(np.uint8)), "label map"),
    "1024 added": (lambda p: nifti(p, (ramp(9, 9, 9) + 1024)), "was 1024 added?"),
    "NaN": (lambda p: nifti(p, np.full((9, 9, 3), np.nan, np.float32)), "NaN"),
    "complex": (lambda p: nifti(p, ramp(9, 9, 9).astype(np.complex64)), "complex64"),
    "sheared": (
        lambda p: nifti(p, ramp(9, 9, 9), srow_x=(-0.5, 0.2, 0, 0)),
        "right angles",
    ),
}
CASES = [pytest.param("in", *v, id=k) for k, v in BOTH.items()]
CASES += [pytest.param("a.nii", *v, id=k) for k, v in FILES.items()]


@pytest.mark.parametrize("name, make, word", CASES)
def test_data_and_upscale_refuse_alike(tmp_path, name, make, word):
    make(tmp_path / name)
    both = [reason(f, tmp_path / name) for f in (read_volume, open_scan)]
    assert all(word in said for said in both), both


# 2. What headers say.


@pytest.mark.parametrize(
    "slope, inter, expected",
    [
        (2, -10, lambda v: v * 2.0 - 10),
        (0, 5, lambda v: v),
        (np.nan, 5, lambda v: v),
        (np.inf, 5, lambda v: v),
        (2, np.nan, lambda v: v * 2.0),
        (2, np.inf, lambda v: v * 2.0),
    ],
)
def test_a_slope_that_is_none(tmp_path, slope, inter, expected):
    "By the standard a slope of 0 means no scaling; what is no number counts as not given."
    stored = ramp(3, 12, 12).transpose(2, 1, 0)
    volume = load_file(nifti(tmp_path / "a.nii", stored, scl_slope=slope, scl_inter=inter))
    assert np.allclose(volume.stored, expected(stored))


def test_a_series_is_ordered_by_position_and_stacked(tmp_path):
    "Names run against the positions; the distance of slices is not their thickness."
    hu, spacing, subject = read_volume(series(tmp_path / "in", ramp(), SliceThickness=2))
    assert np.array_equal(hu, ramp()) and np.allclose(spacing, (5, 0.5, 0.5))
    assert subject.startswith("patient-")


def test_series_without_positions_go_by_number_and_what_is_none_stands_alone(tmp_path):
    for number, name in ((2, "a.dcm"), (1, "b.dcm")):
        d = ct(ramp()[0], number=number)
        del d.ImagePositionPatient
        d.save_as(tmp_path / name)
    (tmp_path / "letter.dcm").write_text("Dear reader")
    found = dicom_series(list(tmp_path.iterdir()))
    assert [[f.name for f in files] for files in found] == [["b.dcm", "a.dcm"], ["letter.dcm"]]


SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_syntax_gives_the_same_units_and_a_plain_result(tmp_path, syntax):
    d = ct(ramp()[1], intercept=-1024)
    if syntax == RLELossless:
        d.compress(RLELossless)
    d.file_meta.TransferSyntaxUID = syntax
    d.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    ds = read_slice(tmp_path / "a.dcm")
    assert np.array_equal(hounsfield(ds), ramp()[1])
    write_slice(ramp()[1], tmp_path / "b.dcm", ds)
    made = pydicom.dcmread(tmp_path / "b.dcm")
    assert np.array_equal(made.pixel_array - 1024.0, ramp()[1])
    assert made.file_meta.TransferSyntaxUID in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


def test_big_endian(tmp_path):
    d = ct(ramp()[1])
    d.PixelData = (ramp()[1] + 1024).astype(">u2").tobytes()
    d.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(tmp_path / "a.dcm", d)
    ds = read_slice(tmp_path / "a.dcm")
    assert np.array_equal(hounsfield(ds), ramp()[1])
    write_slice(ramp()[1], tmp_path / "b.dcm", ds)
    made = pydicom.dcmread(tmp_path / "b.dcm")
    assert np.array_equal(made.pixel_array - 1024.0, ramp()[1]) and made.PatientID == d.PatientID


def test_a_slice_without_file_meta(tmp_path):
    "Old archives store the data set alone."
    d = ct(ramp()[1])
    d.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    d.save_as(tmp_path / "whole.dcm", enforce_file_format=True)
    data = (tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data[144 + int.from_bytes(data[140:144], "little") :])
    assert np.array_equal(hounsfield(read_slice(tmp_path / "a.dcm")), ramp()[1])


def test_unused_bits_are_no_values(tmp_path):
    "Old scanners drew overlays into them; values in the upper bits are refused."
    d = ct(ramp()[1])
    d.PixelData = ((ramp()[1] + 1024).astype("<u2") | 0xF000).tobytes()
    d.save_as(tmp_path / "a.dcm")
    assert np.array_equal(hounsfield(read_slice(tmp_path / "a.dcm")), ramp()[1])
    d.HighBit = 15
    d.save_as(tmp_path / "a.dcm")
    assert "below bit 15" in reason(read_slice, tmp_path / "a.dcm")


def test_slope_and_intercept_may_lack(tmp_path):
    d = ct(ramp()[1])
    d.RescaleSlope = None
    d.save_as(tmp_path / "a.dcm")
    assert np.array_equal(hounsfield(read_slice(tmp_path / "a.dcm")), ramp()[1])


# 3. What upscale writes.


class Nearest:
    "Enlarges by two."

    up = "nearest"

    def __call__(self, lr, task):
        return lr.repeat_interleave(2, -1).repeat_interleave(2, -2)


def enlarge(path, out):
    scan = open_scan(path, (0, 4000))
    task = Task("x2", 64, 32)
    scan.save((restore_slice(v, scan.limits, Nearest(), task) for v in scan), out, model="n")
    return scan


@pytest.mark.parametrize(
    "charset, name",
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 192", "Διονυσιος"),
    ],
)
def test_names_keep_their_character_set(tmp_path, charset, name):
    d = ct(ramp()[1], SpecificCharacterSet=charset, PatientName=name, StudyDescription="CT")
    d.save_as(tmp_path / "a.dcm")
    enlarge(tmp_path / "a.dcm", tmp_path / "b.dcm")
    made = pydicom.dcmread(tmp_path / "b.dcm")
    assert str(made.PatientName) == str(pydicom.dcmread(tmp_path / "a.dcm").PatientName) == name
    assert made.SpecificCharacterSet == d.SpecificCharacterSet


def test_private_entries_and_sequences_are_left_out_and_the_rest_stays(tmp_path):
    d = ct(ramp()[1])
    d.add_new(0x00090010, "LO", "MAKER")
    d.add_new(0x00091001, "LO", "secret")
    d.ReferencedImageSequence = [pydicom.Dataset()]
    d.KVP = "77.5"
    d.save_as(tmp_path / "a.dcm")
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data.replace(b"77.5", b"odd!"))  # which nobody reads
    enlarge(tmp_path / "a.dcm", tmp_path / "b.dcm")
    made = pydicom.dcmread(tmp_path / "b.dcm")
    assert not [e for e in made.keys() if e.is_private] and "ReferencedImageSequence" not in made
    assert made.get_item("KVP").value == b"odd!"
    assert made.StudyDate == d.StudyDate and made.Manufacturer == d.Manufacturer


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_outer_edges_stay_to_a_ten_thousandth_of_a_millimetre(tmp_path, suffix):
    image = sitk.GetImageFromArray(ramp())
    image.SetSpacing((0.7, 0.7, 3.1))
    image.SetOrigin((-123.4, 56.7, -1234.5))
    cos, sin = np.cos(0.2), np.sin(0.2)
    image.SetDirection((cos, -sin, 0, sin, cos, 0, 0, 0, 1))
    sitk.WriteImage(image, tmp_path / f"a{suffix}")
    enlarge(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    a, b = (sitk.ReadImage(tmp_path / f"{n}{suffix}") for n in "ab")
    for corner in np.ndindex(2, 2):
        before = [x * n - 0.5 for x, n in zip(corner, a.GetSize())]
        after = [x * n - 0.5 for x, n in zip(corner, b.GetSize())]
        assert np.allclose(
            a.TransformContinuousIndexToPhysicalPoint([*before, 2]),
            b.TransformContinuousIndexToPhysicalPoint([*after, 2]),
            atol=1e-4,
        )


# 4. Packed values, which zlib unpacks and checks.


def packed_nrrd(path, body, encoding=b"gzip", endian=b"little", line=b"\n"):
    head = [b"NRRD0004", b"type: short", b"dimension: 3", b"sizes: 12 10 3", b"endian: " + endian]
    head += [b"encoding: " + encoding, b"space: left-posterior-superior"]
    head += [b"space directions: (0.5,0,0) (0,0.5,0) (0,0,5)", b"space origin: (1,2,3)"]
    path.write_bytes(line.join(head) + 2 * line + body)
    return path


VALUES = ramp(3, 10, 12).tobytes()
SWAPPED = ramp(3, 10, 12).astype(">i2").tobytes()
PACKED = gzip.compress(VALUES)


@pytest.mark.parametrize(
    "body, options, word",
    [
        (PACKED, {}, ""),
        (PACKED, dict(line=b"\r\n"), ""),
        (zlib.compress(VALUES), {}, ""),
        (gzip.compress(SWAPPED), dict(endian=b"big"), ""),
        (gzip.compress(VALUES[:300]) + gzip.compress(VALUES[300:]), {}, ""),
        (PACKED + b"more", {}, ""),
        (VALUES, dict(encoding=b"raw"), ""),
        (gzip.compress(VALUES + VALUES), {}, "truncated or damaged"),
        (gzip.compress(VALUES[:-2]), {}, "truncated or damaged"),
        (PACKED[:-9], {}, "truncated or damaged"),
        (PACKED[:-8] + bytes(4) + PACKED[-4:], {}, "truncated or damaged"),  # its checksum
        (VALUES, {}, "truncated or damaged"),
        (VALUES[:-2], dict(encoding=b"raw"), "promises 720 bytes of values, there are 718"),
        (VALUES, dict(encoding=b"bzip2"), "gzip or raw"),
    ],
)
def test_packed_values_are_those_of_the_header(tmp_path, capfd, body, options, word):
    file = packed_nrrd(tmp_path / "a.nrrd", body, **options)
    if word:
        assert word in reason(load_file, file)
    else:
        volume = load_file(file)
        assert np.array_equal(volume.stored, ramp(3, 10, 12).T)
        assert np.allclose(volume.affine[:3, 3], (1, 2, 3))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("packed", [False, True])
def test_values_in_a_second_file(tmp_path, capfd, packed):
    "They may be missing or cut; ITK would print that, and libraries write to stderr unasked."
    file = tmp_path / "a.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(ramp()), file, useCompression=packed)
    (apart,) = (f for f in tmp_path.iterdir() if f != file)
    assert np.array_equal(load_file(file).stored, ramp().T)
    whole = apart.read_bytes()
    apart.write_bytes(whole[:-9])
    assert "truncated" in reason(load_file, file)
    apart.unlink()
    assert "second file, which is missing" in reason(load_file, file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["my values.raw", "Gerät.raw"])
def test_a_second_file_with_a_name_of_any_kind(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(ramp()), tmp_path / "a.mhd")
    (tmp_path / "a.raw").rename(tmp_path / name)
    text = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(text.replace("a.raw", name))
    assert np.array_equal(load_file(tmp_path / "a.mhd").stored, ramp().T)
