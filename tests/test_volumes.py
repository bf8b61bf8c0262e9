"One reader for `ctsr data` and `ctsr upscale`: what it reads, and what both refuse for one reason."

import gzip
import os
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
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
from ctsr.data.readers import read_images
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
    "damaged slope": (
        lambda p: nifti(p, ramp(9, 9, 9), scl_slope=1e30, scl_inter=0),
        "so that it is not in HU",
    ),
    "one axis": (lambda p: nifti(p, ramp(9, 9, 9), dim=(1, 729, 1, 1, 1, 1, 1, 1)), "3-D"),
    "no rotation": (
        lambda p: nifti(p, ramp(9, 9, 9), sform_code=0, quatern_b=1, quatern_c=1, qform_code=1),
        "qform that is no rotation",
    ),
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
        (-1, 0, lambda v: -v),
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


@pytest.fixture(scope="module")
def packed_slice(tmp_path_factory):
    "A slice in JPEG 2000 by GDCM."
    path = tmp_path_factory.mktemp("packed") / "a.dcm"
    image = sitk.GetImageFromArray(ramp(3, 64, 64)[1:2])
    image.SetMetaData("0008|0060", "CT")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda stream: stream, ""),
        (lambda stream: stream + bytes(6), ""),
        (lambda stream: stream[: len(stream) // 2], "have no end"),
        (lambda stream: b"<html>" + stream, "are no JPEG 2000"),
    ],
)
def test_compressed_pixels_are_whole_and_of_their_kind(packed_slice, tmp_path, capfd, change, word):
    "Decoders print what they find wrong, so they are not asked."
    d = pydicom.dcmread(packed_slice)
    (stream,) = generate_frames(d.PixelData, number_of_frames=1)
    d.PixelData = encapsulate([change(stream)])
    d.save_as(tmp_path / "a.dcm")
    if word:
        assert word in reason(read_slice, tmp_path / "a.dcm")
    else:
        assert np.array_equal(hounsfield(read_slice(tmp_path / "a.dcm")), ramp(3, 64, 64)[1])
    assert capfd.readouterr().err == ""


def test_pixels_that_cannot_be_decoded_name_their_syntax(tmp_path):
    d = ct(ramp()[1])
    d.compress(RLELossless)
    d.PixelData = encapsulate([b"no pixels at all"])
    d.save_as(tmp_path / "a.dcm")
    said = reason(lambda: hounsfield(read_slice(tmp_path / "a.dcm")))
    assert "cannot be decoded (RLE Lossless)" in said


@pytest.mark.parametrize("uid, word", [("1.2.3.4.5", "transfer syntax '1.2.3.4.5'"), ("", "")])
def test_a_transfer_syntax_that_is_unknown_or_empty(tmp_path, uid, word):
    "Without one the slice itself shows how it was written."
    ct(ramp()[1]).save_as(tmp_path / "a.dcm")
    data = (tmp_path / "a.dcm").read_bytes()
    known = b"1.2.840.10008.1.2.1\0"
    assert data.count(known) == 1
    (tmp_path / "a.dcm").write_bytes(data.replace(known, uid.encode().ljust(20, b"\0")))
    if word:
        assert word in reason(read_slice, tmp_path / "a.dcm")
    else:
        assert np.array_equal(hounsfield(read_slice(tmp_path / "a.dcm")), ramp()[1])


@pytest.mark.parametrize(
    "name", ["PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored"]
)
def test_an_element_that_pixels_need_is_named(tmp_path, name):
    d = ct(ramp()[1])
    delattr(d, name)
    d.save_as(tmp_path / "a.dcm")
    said = reason(read_slice, tmp_path / "a.dcm")
    assert name in said or "None stored" in said


@pytest.mark.parametrize("flat", [1, 3])
def test_a_series_of_air_shows_nothing_and_one_slice_of_it_does_not_matter(tmp_path, flat):
    hu = ramp()
    hu[[1, 0, 2][:flat]] = -1000
    series(tmp_path / "in", hu)
    if flat == 3:
        assert "shows nothing" in reason(open_scan, tmp_path / "in")
        assert "shows nothing" in reason(read_images, tmp_path / "in")
    else:
        assert open_scan(tmp_path / "in").slices == 3


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
        (b"junk" + VALUES, dict(encoding=b"raw\nbyte skip: 4"), ""),
        (b"junk" + VALUES, dict(encoding=b"raw\nbyte skip: -1"), ""),
        (b"junk" + VALUES, dict(encoding=b"raw\nbyte skip: 5"), "there are 719"),
        (VALUES[:-2], dict(encoding=b"raw\nbyte skip: -1"), "there are 718"),
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


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_second_file_that_is_a_pipe_is_not_opened(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(ramp()), file)
    (apart,) = (f for f in tmp_path.iterdir() if f != file)
    assert np.array_equal(load_file(file).stored, ramp().T)
    apart.unlink()
    os.mkfifo(apart)
    assert "second file, which is missing" in reason(load_file, file)


@pytest.mark.parametrize("said", ["10 12", "10 0 3", "10 -12 3", "a b c", "10 12 3 1"])
def test_sizes_that_are_none(tmp_path, capfd, said):
    "ITK prints what it makes of them."
    file = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(ramp()), file)
    data = file.read_bytes()
    assert data.count(b"DimSize = 10 12 3\n") == 1
    file.write_bytes(data.replace(b"DimSize = 10 12 3", b"DimSize = " + said.encode()))
    assert f"DimSize '{said}'" in reason(load_file, file)
    assert capfd.readouterr().err == ""


def test_a_header_without_an_end(tmp_path):
    "A line of 64 GB would keep ITK busy for minutes."
    with open(tmp_path / "a.nrrd", "wb") as file:
        file.write(b"NRRD0004\n")
        file.truncate(2**36)
    assert "has no end" in reason(load_file, tmp_path / "a.nrrd")


def test_a_qform_that_is_no_rotation_does_not_matter_where_the_sform_counts(tmp_path):
    "It comes out as it was; the outer edges stay by the sform."
    file = nifti(tmp_path / "a.nii", ramp(20, 20, 3).astype(np.int16), quatern_b=1, quatern_c=1)
    enlarge(file, tmp_path / "b.nii")
    a, b = (nibabel.load(tmp_path / f"{name}.nii") for name in "ab")
    assert a.shape == (20, 20, 3) and b.shape == (40, 40, 3)
    corner = [a.affine @ (-0.5, -0.5, 0, 1), b.affine @ (-0.5, -0.5, 0, 1)]
    assert np.allclose(*corner) and b.header["quatern_b"] == 1


@pytest.mark.parametrize("name", ["my values.raw", "Gerät.raw"])
def test_a_second_file_with_a_name_of_any_kind(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(ramp()), tmp_path / "a.mhd")
    (tmp_path / "a.raw").rename(tmp_path / name)
    text = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(text.replace("a.raw", name))
    assert np.array_equal(load_file(tmp_path / "a.mhd").stored, ramp().T)
