"""Files as people bring them: what `ctsr data` and `ctsr upscale` make of each kind.

The scripts of `../shared/cases` write the files, where they are present; results are read back by
pydicom, nibabel, SimpleITK and Pillow. Kinds that matter most are written here as well.
"""

import bz2
import gzip
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from program import SMALL, ctsr, start_ctsr
from pydicom.data import get_testdata_file

from ctsr.apps.formats import open_scan
from ctsr.apps.upscale import upscale
from ctsr.core.errors import CTSRError
from ctsr.core.files import save_json, save_tensors
from ctsr.data.readers import read_images
from ctsr.data.volumes import hounsfield, is_dicom, load_file, read_slice, series_affine, subject_of
from ctsr.training.settings import build_model

CASES = Path(__file__).resolve().parent.parent.parent / "shared" / "cases"
CASES = Path(os.environ.get("CTSR_CASES", CASES))


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    "A network that interpolates: its last layer is zero before training."
    folder = tmp_path_factory.mktemp("still")
    model = dict(name="runet", width=1 / 16, residual=True)
    save_tensors(folder / "weights.safetensors", build_model(model).state_dict())
    task = dict(name="x2", hr=64, lr=32)
    save_json(folder / "config.json", dict(model=model, up="bilinear", task=task, precision="fp32"))
    return folder


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    "A network that draws samples, as it is before training."
    folder = tmp_path_factory.mktemp("sampler")
    model = dict(name="sr3", channels=16)
    save_tensors(folder / "weights.safetensors", build_model(model).state_dict())
    task = dict(name="x2", hr=64, lr=32)
    scale = dict(mean=0.5, std=0.5, clip=1.0)
    config = dict(model=model, up="bicubic", task=task, precision="fp32", **scale)
    save_json(folder / "config.json", config)
    return folder


@pytest.fixture
def case(tmp_path, monkeypatch):
    "A function that writes the files of a script."

    def write(name):
        if not CASES.is_dir():
            pytest.skip("the cases are not here: set CTSR_CASES to their folder")
        (script,) = CASES.glob(f"{name}_*.py")
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setattr(sys, "argv", [str(script), str(folder)])
        try:
            runpy.run_path(str(script), run_name="__main__")
        except RuntimeError as error:
            # pylibjpeg is no dependency: the rest of the files is there
            assert "pylibjpeg" in str(error)
        return folder

    return write


def data(folder, **settings):
    "Pictures by origin, and reasons by file."
    try:
        pictures, skipped = read_images(folder, **settings)
    except CTSRError as error:
        assert "holds no usable image" in str(error)
        return {}, {"": str(error)}
    by_origin = {}
    for picture in pictures:
        by_origin.setdefault(picture.origin, []).append(picture)
    return by_origin, {row["file"]: row["reason"] for row in skipped}


class Made:
    "What one run of upscale did: results and reasons by the name of the input."

    def __init__(self, still, inputs, out, **settings):
        inputs = [Path(p) for p in inputs]
        # several inputs, so that OUT is a folder
        rows = upscale(inputs, out, still, **settings)
        self.out = {row["path"].name: row["out"] for row in rows if "out" in row}
        self.errors = [row["error"] for row in rows if "error" in row]
        assert all("\n" not in line and "Traceback" not in line for line in self.errors)
        written = Path(out).rglob("*") if Path(out).exists() else []
        assert not [p for p in written if ".part" in p.name or p.name.endswith(".lock")]

    def said(self, *words):
        "Whether one line holds all the words."
        return any(all(word in line for word in words) for line in self.errors)


def files(folder, pattern="*"):
    return sorted(p for p in folder.glob(pattern) if p.is_file())


# 1. The scripts.

REFUSED = {  # script, pattern of inputs, a word of the reason for each name
    "d01": ("s", {"0.dcm": "MONOCHROME1"}),
    "d06": ("*", {"nometa-cut.dcm": "truncated"}),
    "d08": (
        "*",
        {
            "intercept-comma.dcm": "RescaleIntercept '-1024,'",
            "intercept-text.dcm": "RescaleIntercept 'HU1024'",
            "slope-comma.dcm": "RescaleSlope '1,0'",
        },
    ),
    "d10": ("cd", {"cd": "name the folders of its series"}),
    "d15": ("*", {"a.dcm": "1.40 x 0.70 mm"}),
    "d17": ("*", {"highbit15.dcm": "below bit 15"}),
    "d20": ("*", {"enhanced.dcm": "multi-frame"}),
    "d32": ("*", {"sc-rgb.dcm": "RGB"}),
    "a01": ("*", {f"slice{z}.png": "--window CENTRE,WIDTH" for z in range(4)}),
    "a02": ("labelsTr/*", {"lung_000.nii.gz": "label map"}),
    "a06": ("*", {"colour.png": "colour", "alpha.png": "transparent", "bit.png": "label map"}),
    "n02": ("*", {"c8.nii": "complex64", "rgb.nii": "3-D", "mask.nii": "label map"}),
    "n03": (
        "*",
        {
            "packed.nii": "rename it to .nii.gz",
            "plain.nii.gz": "rename it to .nii",
            "twice.nii.gz": "packed twice",
            "tail.nii.gz": "something follows",
        },
    ),
    "n04": ("*", {"4d3.nii": "3-D"}),
    "n06": (
        "*",
        {
            "nan.nii": "NaN",
            "inf.nii": "infinite",
            "norm.nii": "shows nothing",
            "plus1024.nii": "was 1024 added?",
            "zeros.nii": "below 0",
        },
    ),
    "n07": (
        "*",
        {
            "cut-gz.nrrd": "truncated",
            "cut-raw.nrrd": "truncated",
            "huge.nrrd": "GB of memory",
            "bz2.nrrd": "gzip or raw",
            "list.nrrd": "3-D",
        },
    ),
    "n08": (
        "*.mha",
        {
            "cut.mha": "truncated",
            "cut-packed.mha": "truncated",
            "apart-cut.mha": "there are 9000",
            "lost.mha": "missing",
            "huge.mha": "GB of memory",
        },
    ),
    "p04": ("*", {"longtext.png": "texts of more than 1 MB"}),
}
GOOD = {  # names that must come out
    "d01": (),
    "d06": ("whole.dcm", "nometa.dcm"),
    "d08": ("good.dcm", "slope-empty.dcm"),
    "d15": ("near.dcm",),
    "d17": ("b32.dcm", "b8.dcm"),
    "d32": ("sc-grey.dcm",),
    "a06": ("palette.png", "cmyk.jpg"),
    "n02": ("f4.nii", "f8.nii", "i4.nii"),
    "n03": ("members.nii.gz",),
    "n04": ("2d.nii", "one.nii", "4d1.nii", "5d.nii", "odd.nii"),
    "n06": ("pad32768.nii", "emptyslice.nii", "clipped.nii"),
    "n07": ("ras.nrrd", "spacings.nrrd", "thick.nrrd", "ascii.nrrd"),
    "n08": ("good.mha", "packed.mha", "apart.mha", "long.mha"),
    "p04": ("longcomment.jpg", "latin.jpg", "text900k.png", "keys.png", "itxt.png", "dpi0.png"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_costs_only_itself(case, still, tmp_path, name):
    "Each bad file has one line with its name and the true reason; the good ones come out."
    pattern, reasons = REFUSED[name]
    folder = case(name)
    inputs = sorted(folder.glob(pattern))
    inputs += [p for p in (folder / "plain",) if p.exists()]
    made = Made(still, inputs, tmp_path / "out")
    for file, word in reasons.items():
        assert made.said(file, word), made.errors
        assert file not in made.out
    assert set(GOOD.get(name, ())) <= set(made.out), made.errors
    found, skipped = data(folder)
    for file, word in reasons.items():
        if name in ("d10", "a06", "d06", "d08", "d15", "d17"):  # taken, or one of a series' files
            continue
        if "" in skipped:  # nothing can be used: the first file of each reason is named
            assert word in skipped[""] and any(f in skipped[""] for f in reasons)
            continue
        assert any(file in f"{k} {v}" and word in v for k, v in skipped.items()), skipped


def test_slopes_that_are_none(case, still, tmp_path):
    folder = case("n01")
    made = Made(still, files(folder), tmp_path / "out")
    assert not made.errors
    good = nibabel.load(folder / "good.nii").get_fdata()
    for name in ("nan", "nan-inter", "inf", "zero", "nan-slope"):
        assert np.array_equal(load_file(folder / f"{name}.nii").stored, good), name
    same = nibabel.load(made.out["good.nii"]).get_fdata()
    for name in ("nan", "inf", "zero", "nan-slope"):
        raw = np.asanyarray(nibabel.load(made.out[f"{name}.nii"]).dataobj.get_unscaled())
        assert np.array_equal(raw, same), name
    turned = nibabel.load(made.out["neg.nii"]).get_fdata()
    assert np.array_equal(load_file(folder / "neg.nii").stored, -good - 1024)
    difference = np.abs(turned - (-same - 1024))  # what lies outside the window is bicubic
    assert np.median(difference) <= 1 and difference.mean() < 3


def test_character_sets(case, still, tmp_path):
    folder = case("d09")
    made = Made(still, files(folder), tmp_path / "out")
    assert not made.errors and len(made.out) == len(files(folder))
    for file in files(folder):
        old, new = pydicom.dcmread(file), pydicom.dcmread(made.out[file.name])
        assert new.get("SpecificCharacterSet") == old.get("SpecificCharacterSet")
        assert str(new.PatientName) == str(old.PatientName)


@pytest.mark.slow
def test_folders_with_more_than_a_series(case, still, tmp_path):
    "Localizers, a dose report and MR are listed; the series are restored and read."
    for name, good, bad, word in (
        ("d11", ("own", "same", "size"), "scout.dcm", "localizer"),
        ("d18", ("s",), "dose.dcm", "modality SR"),
        ("d19", ("ct",), "mr/0.dcm", "modality MR"),
    ):
        folder = case(name)
        inputs = sorted(p for p in folder.iterdir() if p.is_dir())
        made = Made(still, [*inputs, folder / "none"], tmp_path / f"out-{name}")
        assert set(made.out) == set(good) and made.said(bad, word)
        for one in good:
            old = [pydicom.dcmread(f) for f in files(folder / one) if f.name != bad]
            new = [pydicom.dcmread(f) for f in files(made.out[one])]
            assert sorted(float(d.ImagePositionPatient[2]) for d in new) == sorted(
                float(d.ImagePositionPatient[2]) for d in old
            )
        found, skipped = data(folder)
        assert sum(map(len, found.values())) == sum(len(files(made.out[g])) for g in good)
        assert any(word in reason for reason in skipped.values())


def test_gaps_and_copies(case, still, tmp_path):
    "Slices come out one by one; a volume of them has no single spacing."
    folder = case("d12")
    made = Made(still, [folder / "s", folder / "none"], tmp_path / "out")
    heights = [pydicom.dcmread(f).ImagePositionPatient[2] for f in files(made.out["s"])]
    assert sorted(heights) == [0, 5, 10, 25, 30]
    with pytest.raises(CTSRError, match="2 missing slices after 2.dcm"):
        series_affine([read_slice(f) for f in files(folder / "s")])
    folder = case("d13")
    for name in ("copy", "phases"):
        slices = sorted(
            (read_slice(f) for f in files(folder / name)), key=lambda d: d.InstanceNumber
        )
        slices.sort(key=lambda d: d.ImagePositionPatient[2])
        with pytest.raises(CTSRError, match="at the same position"):
            series_affine(slices)


def test_identifiers(case, still, tmp_path):
    folder = case("d25")
    made = Made(still, [folder / "s", folder / "none"], tmp_path / "out")
    new = [pydicom.dcmread(f) for f in files(made.out["s"])]
    assert len({d.StudyInstanceUID for d in new}) == 1 and new[0].StudyInstanceUID.is_valid
    folder = case("d22")
    made = Made(still, [folder, folder / "none"], tmp_path / "out22")
    new = [pydicom.dcmread(f) for f in files(made.out["d22"])]
    assert len(new) == 5 and len({d.SeriesInstanceUID for d in new}) == 1
    assert {d.StudyInstanceUID for d in new} == {"1.2.3"}
    assert all(d.FrameOfReferenceUID for d in new)


def test_anonymous_people_stay_apart(case):
    for name, people in (("d21", 4), ("d30", 3)):
        found, _ = data(case(name))
        assert len({p.subject for pictures in found.values() for p in pictures}) == people


def test_an_intercept_without_a_slope_is_read_alike_by_others(case, still, tmp_path):
    folder = case("d26")
    made = Made(still, [folder / "s", folder / "none"], tmp_path / "out")
    for file in files(made.out["s"]):
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(file, imageIO="GDCMImageIO"))
        assert theirs.min() < -900 and pydicom.dcmread(file).RescaleSlope == 1


def test_names_of_bytes_and_of_every_kind(case, still, tmp_path):
    folder = case("e01")
    made = Made(
        still, [*files(folder), *(p for p in folder.iterdir() if p.is_dir())], tmp_path / "o"
    )
    assert not made.errors and {os.fsencode(n) for n in made.out} == {
        b"S\xe9rie",
        b"caf\xe9.nii",
        b"mixed",
    }
    found, skipped = data(folder)
    assert r"caf\xe9.nii" in found and not skipped
    folder = case("p05")
    made = Made(still, sorted(folder.rglob("*.png")), tmp_path / "out")
    for name in ("cut.png", "zero.png", "loop.png", "dangling.png"):
        assert made.said(name)
    assert len(made.out) == 20


def test_pictures_are_turned_once(case, still, tmp_path):
    folder = case("p01")
    made = Made(still, files(folder), tmp_path / "out")
    assert not made.errors
    for name, out in made.out.items():
        with Image.open(out) as image:
            assert image.size == (128, 96) and image.getexif().get(0x0112, 1) == 1, name
            if name == "exif.png":
                assert np.allclose(image.info["dpi"], (400, 200), rtol=0.01)
    found, _ = data(folder)
    assert {p.pixels.shape for pictures in found.values() for p in pictures} == {(48, 64)}


def test_texts_and_keys(case, still, tmp_path):
    folder = case("n09")
    made = Made(still, files(folder), tmp_path / "out")
    assert not made.errors
    assert sitk.ReadImage(made.out["utf8.nrrd"]).GetMetaData("Gerät") == "Sömatom"
    folder = case("p04")
    made = Made(still, files(folder), tmp_path / "out04")
    for name in ("latin.jpg", "longcomment.jpg"):
        with Image.open(made.out[name]) as image:
            assert b"Super-resolution by ctsr" in image.info["comment"]
            assert image.info["comment"][:2] in (b"M\xfc", b"xx")


def test_thicknesses_are_kept(case, still, tmp_path):
    folder = case("n07")
    made = Made(still, [folder / "thick.nrrd", folder / "none"], tmp_path / "out")
    head = made.out["thick.nrrd"].read_bytes().partition(b"\n\n")[0].decode()
    assert re.findall("thicknesses: (.*)", head) == [".7 .7 5"]
    assert sitk.ReadImage(made.out["thick.nrrd"]).GetSize() == (128, 128, 3)


@pytest.mark.parametrize("name", ["d03", "d04", "d07", "d14", "d28", "p02"])
def test_what_is_right_stays_right(case, still, tmp_path, name):
    "Values in HU agree with those of pydicom before the enlargement, on average."
    folder = case(name)
    inputs = files(folder) or sorted(p for p in folder.iterdir() if p.is_dir())
    made = Made(still, [*inputs, folder / "none"], tmp_path / "out")
    assert made.out and not made.said("Traceback")
    if name != "p02":
        assert len(made.errors) == 1, made.errors
    for given in inputs if name[0] == "d" else []:
        old = files(given) if given.is_dir() else [given]
        new = files(made.out[given.name]) if given.is_dir() else [made.out[given.name]]
        for a, b in zip(old, new):
            means = []
            for file in (a, b):
                image = sitk.ReadImage(file, imageIO="GDCMImageIO")
                means.append(sitk.GetArrayFromImage(image).mean())
            assert abs(means[0] - means[1]) < 2, (a.name, means)


def test_slices_named_by_their_uid(case, sampler, tmp_path):
    "Results and deviations have names of their own; identifiers are new, and one a slice."
    folder = case("d27")
    inputs = [*files(folder / "one"), folder / "s"]
    drawing = dict(samples=2, steps=1, uncertainty=True)
    made = Made(sampler, inputs, tmp_path / "out", **drawing)
    names = [p.name for p in inputs]
    assert not made.errors and list(made.out) == names and names[0].count(".") == 7
    there = {p.name for p in (tmp_path / "out").iterdir()}
    assert there == {*names, *(f"{name}.uncertainty.nrrd" for name in names)}
    series = files(made.out["s"])
    assert [p.name for p in series] == [p.name for p in files(folder / "s")]
    for old, new in ((folder / "s", made.out["s"]), (folder / "one", tmp_path / "out")):
        before = [pydicom.dcmread(p) for p in files(old)]
        after = [pydicom.dcmread(new / p.name) for p in files(old)]
        uids = [d.SOPInstanceUID for d in (*before, *after)]
        assert len(set(uids)) == 6 and all(uid.is_valid for uid in uids)
        assert len({d.SeriesInstanceUID for d in after} - {before[0].SeriesInstanceUID}) == 1
        assert all(d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID for d in after)
    for name in names[:3]:
        spread = sitk.ReadImage(tmp_path / "out" / f"{name}.uncertainty.nrrd")
        place = pydicom.dcmread(tmp_path / "out" / name).ImagePositionPatient
        assert np.allclose(spread.GetOrigin(), place, atol=1e-4)
        assert sitk.GetArrayViewFromImage(spread).max() > 0


@pytest.mark.slow
def test_a_whole_study_in_a_clone_with_braces_and_blanks(case, root, tmp_path):
    "Clone, interpreter, data and output all lie in such folders; the study runs to its report."
    clone = tmp_path / "My 'Study' (1) {x}"
    shutil.copytree(root / "nbs", clone / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(root / "ctsr", clone / "ctsr", ignore=shutil.ignore_patterns("weights"))
    shutil.move(case("e03") / "scans", clone / "scans {2}")
    (clone / "the env").symlink_to(sys.prefix)
    python = clone / "the env" / "bin" / Path(sys.executable).name

    less = ("--set", "runs.nn-runet-x5.skip=true")
    places = ("--data", "scans {2}", "--out", "run{1}")
    command = [python, "-m", "ctsr", "study", SMALL, "--jobs", "1", *places, *less]
    environment = os.environ | dict(PYTHONPATH=str(clone), OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = done.stdout.splitlines()[-1].removeprefix("report: ")
    assert report.startswith("run{1}/") and (clone / report).is_file()
    scores = list((clone / "run{1}" / "evaluate").glob("runet-x5--x5/*per_image*"))
    assert scores and not list((clone / "run{1}").rglob("*.failed.ipynb"))


def test_result_folders_and_two_commands(case, still, tmp_path):
    folder = case("e04")
    upscale([folder / "s"], tmp_path / "fine", still)
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "fine" / name).write_bytes(b"\0\0\0\1Bud1")
    (row,) = upscale([folder / "s"], tmp_path / "fine", still, force=True)
    assert row["slices"] == 3
    (tmp_path / "fine" / "letter.txt").write_text("mine")
    (row,) = upscale([folder / "s"], tmp_path / "fine", still, force=True)
    assert "other things" in row["error"]
    folder = case("e07")
    from ctsr.core.files import claimed

    with claimed(tmp_path / "o" / "r"):
        (row,) = upscale([folder / "s"], tmp_path / "o" / "r", still)
    assert "another process" in row["error"] and not list((tmp_path / "o").iterdir())


# 2. The same kinds, written here.


def ct(folder, name="a.dcm", values=None, **tags):
    "A slice of the scanner of pydicom's example."
    d = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for key, value in tags.items():
        setattr(d, key, value)
    folder.mkdir(parents=True, exist_ok=True)
    d.save_as(folder / name)
    data = (folder / name).read_bytes()
    for old, new in (values or {}).items():
        assert data.count(old) == 1 and len(old) == len(new)
        data = data.replace(old, new)
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    "tag, said",
    [
        ("RescaleIntercept", "-1024,"),
        ("PixelSpacing", "0,661\\0,661"),
        ("PixelSpacing", "0.66"),
        ("ImagePositionPatient", "1\\2"),
        ("ImageOrientationPatient", "L\\P\\F\\1\\1\\1"),
        ("SliceThickness", "5 mm"),
        ("InstanceNumber", "one"),
        ("RescaleSlope", "1\\1"),
        ("RescaleSlope", "nan"),
    ],
)
def test_numbers_that_are_none(tmp_path, still, tag, said):
    file = ct(tmp_path / "in")
    d = pydicom.dcmread(file)
    said = said + " " * (len(said) % 2)
    keyword = pydicom.datadict.tag_for_keyword(tag)
    raw = d.get_item(keyword)
    d[keyword] = raw._replace(value=said.encode(), length=len(said))
    d.save_as(file)
    with pytest.raises(CTSRError, match=tag):
        read_slice(file)
    made = Made(still, [file, tmp_path / "none"], tmp_path / "out")
    assert made.said(tag, "a.dcm") and not made.out
    _, skipped = data(tmp_path / "in")
    assert tag in skipped[""]


@pytest.mark.parametrize(
    "tag, kind, said, number",
    [
        ("PixelSpacing", "LO", "0.5\\0.25", None),  # two sides
        ("PixelSpacing", "LO", "0.5\\0.5", [0.25, 0.25]),
        ("PixelSpacing", "FD", np.array([0.5, 0.5]).tobytes().decode("latin-1"), [0.25, 0.25]),
        ("PixelSpacing", "ST", "0.5\\0.5", None),  # one text
        ("ImagePositionPatient", "LO", "1\\2\\3", [0.83, 1.83, 3]),
        ("SeriesNumber", "LO", "5", 1005),
        ("Rows", "LO", "128", 256),
        ("BitsStored", "SH", "16", 16),
        ("PixelPaddingValue", "LO", "-2000", -2000),
    ],
)
def test_numbers_that_are_declared_as_text(tmp_path, still, tag, kind, said, number):
    file = ct(tmp_path / "in")
    d = pydicom.dcmread(file)
    content = (said + " " * (len(said) % 2)).encode("latin-1")
    keyword = pydicom.tag.Tag(tag)
    raw = (keyword, kind, len(content), content, 0, False, True)
    d[keyword] = pydicom.dataelem.RawDataElement(*raw)
    d.save_as(file)
    out = by_both(still, file, tmp_path, "" if number else "mm" if kind == "LO" else tag)
    assert not number or np.allclose(pydicom.dcmread(out)[tag].value, number, atol=0.01)


def corners(series):
    "Outer corners of a series in mm, by SimpleITK; and the mean of its values."
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series)))
    ends = [[(n - 0.5) if far else -0.5 for n, far in zip(image.GetSize(), at)] for at in CORNERS]
    places = [image.TransformContinuousIndexToPhysicalPoint(end) for end in ends]
    return np.array(places), sitk.GetArrayFromImage(image).mean()


CORNERS = list(np.ndindex(2, 2, 2))
NEW = (  # tags that a derived image has of its own
    "ImageType SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID "
    "SeriesNumber SeriesDescription DerivationDescription Rows Columns PixelSpacing "
    "ImagePositionPatient InstanceCreationDate InstanceCreationTime PixelData"
).split()


def test_an_anonymised_series_there_and_back(tmp_path, still):
    "Identifiers are made; geometry, character set and all other tags stay, as others read them."
    folder = tmp_path / "in"
    empty = dict.fromkeys(
        ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"), ""
    )
    words = dict(
        SpecificCharacterSet=["ISO 2022 IR 6", "ISO 2022 IR 149"],
        PatientName="Hong^Gildong=洪^吉洞=홍^길동",
        InstitutionName="홍길동",
        PatientID="",
    )
    for z in range(3):
        place = [-12.5, 7.25, 5.0 * z]
        uid = f"1.2.{z + 1}"
        ct(folder, f"{z}.dcm", ImagePositionPatient=place, SOPInstanceUID=uid, **empty, **words)
    made = Made(still, [folder, tmp_path / "none"], tmp_path / "out")
    old = [pydicom.dcmread(f) for f in files(folder)]
    new = [pydicom.dcmread(f) for f in files(made.out["in"])]
    for name in list(empty)[1:]:
        assert len({d[name].value for d in new}) == 1 and new[0][name].value.is_valid
    assert {d.SOPClassUID for d in new} == {pydicom.uid.CTImageStorage}
    assert len({d.SOPInstanceUID for d in new}) == 3
    for before, after in zip(old, new):
        kept = [e for e in before if not e.tag.is_private and e.VR != "SQ" and e.keyword not in NEW]
        assert len(kept) > 50 and all(after[e.tag].value == e.value for e in kept)
        assert not [e for e in after if e.tag.is_private]
    places, means = zip(corners(folder), corners(made.out["in"]))
    assert np.abs(places[0] - places[1]).max() < 1e-4 and abs(means[0] - means[1]) < 2


def test_placeholder_ids_name_nobody():
    d = pydicom.Dataset()
    subjects = {}
    nobody = "ANONYMOUS Anonymized 0000 XXX removed Anonymous^Patient no_name De-identified ? ***"
    for who in ("", *nobody.split(), "NOT AVAILABLE", "ANON-17", "P1", "7", "Noname 4"):
        d.PatientID = who
        for series in ("1.2.3", "1.2.4"):
            d.SeriesInstanceUID = series
            subjects.setdefault(who, set()).add(subject_of(d))
    one = [who for who, found in subjects.items() if len(found) == 1]
    assert one == ["ANON-17", "P1", "7", "Noname 4"]


@pytest.mark.parametrize("people", [["P1", "P2"], ["P1", ""], ["P1", "P1"]])
def test_two_patients_with_one_series_identifier(tmp_path, still, people):
    "They are no series; a slice that does not say whose it is belongs to the only patient."
    for z, who in enumerate(people):
        ct(tmp_path / "in", f"{z}.dcm", ImagePositionPatient=[0, 0, 5 * z], PatientID=who)
    made = Made(still, [tmp_path / "in", tmp_path / "none"], tmp_path / "out")
    found, _ = data(tmp_path / "in")
    subjects = {p.subject for pictures in found.values() for p in pictures}
    assert sum(map(len, found.values())) == 2
    if people[1] == "P2":
        assert made.said("holds 2 DICOM series") and len(subjects) == 2
    else:
        assert len(files(made.out["in"])) == 2 and len(subjects) == 1


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz", ".mhd"])
def test_volumes_in_folders_that_are_no_utf8(tmp_path, still, suffix):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/S\xe9rie"))
    folder.mkdir()
    hu = np.linspace(-1000, 900, 3 * 32 * 32).reshape(3, 32, 32).round().astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(hu), tmp_path / f"a{suffix}")
    for file in tmp_path.glob("a.*"):
        name = b"/caf\xe9" + suffix.encode() if file.suffix != ".raw" else b"/a.raw"
        os.rename(file, os.fsencode(folder) + name)
    file = next(f for f in folder.iterdir() if f.name.endswith(suffix))
    assert np.array_equal(load_file(file).stored, hu.T)
    if suffix != ".mhd":
        (row,) = upscale([file], folder / "out", still)
        assert load_file(row["out"]).size == (64, 64, 3)
        (again,) = upscale([file], folder / "out", still)
        assert "before" in again


def test_nifti_2_big_endian_and_slopes(tmp_path):
    stored = np.arange(-500, 268, dtype=np.int16).reshape(16, 16, 3)
    for version in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for endian in "<>":
            for slope in (np.nan, np.inf, 0, 2):
                image = version(stored, np.diag([-1, -1, 5, 1]))
                header = image.header.as_byteswapped(endian)
                header["scl_slope"], header["scl_inter"] = slope, 5
                path = tmp_path / "a.nii.gz"
                with gzip.open(path, "wb") as file:
                    header["vox_offset"] = header.single_vox_offset
                    file.write(header.binaryblock + bytes(4))
                    file.write(stored.astype(f"{endian}i2").tobytes("F"))
                expected = stored * 2.0 + 5 if slope == 2 else stored
                assert np.array_equal(load_file(path).stored, expected), (version, endian, slope)


def test_pipes_and_places_that_may_not_be_read(tmp_path, still, monkeypatch):
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "locked").mkdir()
    Image.fromarray(np.arange(4096).reshape(64, 64).astype(np.uint8)).save(tmp_path / "a.png")
    walk = os.walk

    def locked_walk(top, onerror=None, **options):
        for folder, below, names in walk(top, onerror=onerror, **options):
            if Path(folder).name == "locked":
                onerror(PermissionError(13, "Permission denied", folder))
            else:
                yield folder, below, names

    monkeypatch.setattr(os, "walk", locked_walk)
    found, skipped = data(tmp_path)
    assert list(found) == ["a.png"]
    assert "pipe" in skipped["pipe.nii"] and "Permission denied" in skipped["locked"]
    made = Made(still, [tmp_path / "pipe.nii", tmp_path / "a.png"], tmp_path / "out")
    assert made.said("pipe.nii", "is a pipe") and "a.png" in made.out


UNPRIVILEGED = """
import sys
from pathlib import Path
from ctsr.apps.formats import open_scan, read_grey
from ctsr.apps.upscale import upscale
from ctsr.data.readers import read_images
folder, still, out = map(Path, sys.argv[1:])
found, skipped = read_images(folder)
print(len(found), "read")
for row in skipped:
    print("data", row["file"], row["reason"])
inputs = [folder / "slices", folder / "locked/a.png", folder / "pictures/1.png"]
for row in upscale([*inputs, folder / "pictures/0.png"], out, still):
    print("upscale", row.get("error") or row["path"].name)
"""


@pytest.mark.slow
def test_no_permission(case, still, tmp_path):
    "Without the rights of root, who may read anything."
    folder = case("e02")
    command = [sys.executable, "-c", UNPRIVILEGED, folder, still, tmp_path / "out"]
    if os.geteuid() == 0:
        rights = "--bounding-set=-dac_override,-dac_read_search"
        command = ["setpriv", rights, "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    for path in (folder / "locked", folder / "slices" / "IM1"):
        path.chmod(0o700)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "4 read"  # two pictures and two slices
    for begin in ("data locked", "data pictures/1.png", "data slices/IM1"):
        assert any(line.startswith(begin) and "ermission denied" in line for line in said), said
    for name in ("slices/IM1", "locked/a.png", "pictures/1.png"):
        assert any(line.startswith("upscale") and name in line for line in said), said
    assert said[-1] == "upscale 0.png"


def test_whatever_one_file_raises_is_its_row(tmp_path, still, monkeypatch):
    "An exception that nobody expects, in reading and in looking."
    for name in "ab":
        Image.fromarray(np.arange(4096).reshape(64, 64).astype(np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    import ctsr.apps.formats as module
    import ctsr.data.readers as readers

    def failing(function):
        def wrapper(path, *args):
            if Path(path).name == "a.png":
                raise KeyError("nobody thought of this")
            return function(path, *args)

        return wrapper

    monkeypatch.setattr(readers, "_decode", failing(readers._decode))
    found, skipped = data(tmp_path)
    assert list(found) == ["b.png"] and "nobody thought" in skipped["a.png"]
    monkeypatch.setattr(module, "read_grey", failing(module.read_grey))
    made = Made(still, files(tmp_path, "*.png"), tmp_path / "out")
    assert list(made.out) == ["b.png"] and made.said("a.png", "nobody thought")


# 3. Variants of the kinds.


def volume(path, values, kind=np.int16):
    "A NIfTI volume of 0.7 x 0.7 x 5 mm."
    nibabel.save(nibabel.Nifti1Image(values.astype(kind), np.diag([0.7, 0.7, 5, 1])), path)
    return path


def poked(path, source, offset, *values):
    "A copy of a NIfTI file with other real numbers in its header."
    data = bytearray(source.read_bytes())
    data[offset : offset + 4 * len(values)] = np.array(values, "<f4").tobytes()
    path.write_bytes(data)


def noise(*shape):
    return np.random.default_rng(0).normal(-500, 300, shape).round()


def organs(height, width):
    "Labels in blocks of ten pixels: over a hundred, as a segmentation of the whole body has."
    row, column = np.ogrid[:height, :width]
    return (row // 10 * 12 + column // 10).astype(float)


@pytest.mark.parametrize(
    "tags, said",
    [
        (dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality=""), "MR Image Storage"),
        (dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="CT"), "MR Image Storage"),
        (dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.2"), "multi-frame"),
        (dict(ImageType=["ORIGINAL", "PRIMARY", "SCOUT"]), "localizer"),
        (dict(ImageType=["ORIGINAL", "PRIMARY", "TOPOGRAM"]), "localizer"),
        (dict(Modality="pt"), "modality PT"),
        (dict(Modality="ct"), ""),
        (dict(RescaleType="Hounsfield"), ""),
        (dict(RescaleType="HOUNSFIELD UNITS"), ""),
        (dict(RescaleType="hu"), ""),
        (dict(RescaleType="HU1000"), "values of type HU1000"),
        (dict(RescaleType="OD"), "values of type OD"),
        (dict(SOPClassUID="1.2.826.0.1.3680043.8.498.1"), ""),
        (dict(SOPClassUID=""), ""),
    ],
)
def test_what_is_no_slice_by_its_class_modality_or_type(tmp_path, still, tags, said):
    file = ct(tmp_path / "in", **tags)
    made = Made(still, [file, tmp_path / "none"], tmp_path / "out")
    found, skipped = data(tmp_path / "in")
    if said:
        assert made.said(said) and not made.out and said in skipped[""]
    else:
        assert made.out and found and not skipped


def test_a_captured_screen_next_to_a_series(tmp_path, still):
    "The series is restored, and the screen is listed, in a series of its own or in the same."
    for uid in ("1.2.9", "1.2.3"):
        folder = tmp_path / uid
        for z in range(3):
            ct(folder, f"{z}.dcm", SeriesInstanceUID="1.2.3", ImagePositionPatient=[0, 0, 5 * z])
        capture = dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", RescaleIntercept="")
        ct(folder, "9.dcm", SeriesInstanceUID=uid, PixelRepresentation=0, **capture)
        made = Made(still, [folder, tmp_path / "none"], tmp_path / f"out-{uid}")
        assert made.said("9.dcm", "no intercept") and len(files(made.out[uid])) == 3
        found, skipped = data(folder)
        assert sum(map(len, found.values())) == 3 and len(skipped) == 1


@pytest.mark.parametrize("name", ["zeros.dcm", pytest.param("tail.dcm", marks=pytest.mark.slow)])
def test_zeros_without_end_are_no_elements(tmp_path, still, name):
    "A sparse file of zeros alone, and one whose slice they follow, cost seconds and not hours."
    file = ct(tmp_path / "in", name) if name == "tail.dcm" else tmp_path / name
    with open(file, "ab") as handle:
        handle.truncate(2**31)
    begun = time.monotonic()
    made = Made(still, [file, tmp_path / "none"], tmp_path / "out")
    assert time.monotonic() - begun < 60
    assert bool(made.out) == (name == "tail.dcm") and made.said("zeros.dcm") != bool(made.out)


@pytest.mark.parametrize("kind", ["uint8", "int16", "float32", "dicom", "png"])
def test_label_maps_of_a_hundred_organs(tmp_path, still, kind):
    for name, values in (("labels", organs(120, 120)), ("image", noise(120, 120))):
        folder = tmp_path / name
        folder.mkdir()
        grey = values if name == "labels" else values / 8 + 128
        if kind == "dicom":
            file = ct(folder)
            d = pydicom.dcmread(file)
            d.Rows = d.Columns = 120
            d.PixelData = (values + 1024).astype(np.int16).tobytes()
            d.save_as(file)
        elif kind == "png":
            file = folder / "a.png"
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(file)
        else:
            stack = np.stack([grey if kind == "uint8" else values] * 2, -1).clip(-1024)
            file = volume(folder / "a.nii", stack.clip(0, 255) if kind == "uint8" else stack, kind)
        made = Made(still, [file, tmp_path / "none"], tmp_path / f"out-{name}")
        found, skipped = data(folder)
        if name == "labels":
            assert made.said("label map") and "label map" in skipped[""]
        else:
            assert made.out and found and not skipped


def test_nifti_that_is_named_or_written_wrongly(tmp_path, still):
    "The reason is the true one; an intercept that is infinite does not come out again."
    folder = tmp_path / "in"
    folder.mkdir()
    good = volume(folder / "good.nii", noise(24, 20, 3))
    poked(folder / "inside.nii", good, 108, 0)
    poked(folder / "inf.nii", good, 112, 1, np.inf)
    (folder / "units.nii").write_bytes(good.read_bytes()[:123] + b"\xff" + good.read_bytes()[124:])
    with zipfile.ZipFile(folder / "zip.nii.gz", "w") as archive:
        archive.write(good)
    (folder / "bzip.nii.gz").write_bytes(bz2.compress(good.read_bytes()))
    (folder / "plain.nii.gz").write_bytes(good.read_bytes())
    nibabel.save(nibabel.Nifti1Pair(noise(24, 20, 3), np.eye(4)), folder / "pair.hdr")
    reasons = {
        "inside.nii": "inside its header",
        "zip.nii.gz": "not packed by gzip",
        "bzip.nii.gz": "not packed by gzip",
        "plain.nii.gz": "rename it to .nii",
        "pair.hdr": "save both as one .nii",
        "pair.img": "save both as one .nii",
    }
    made = Made(still, files(folder), tmp_path / "out")
    _, skipped = data(folder)
    for name, word in reasons.items():
        assert made.said(name, word) and word in skipped[name], made.errors
    assert set(made.out) == {"good.nii", "inf.nii", "units.nii"}
    images = [nibabel.load(place).get_fdata() for place in made.out.values()]
    assert all((image == images[0]).all() for image in images[1:])


def test_meta_image_with_damaged_values(tmp_path, still):
    "ITK prints a line and returns whatever was in memory."
    image = sitk.GetImageFromArray(noise(3, 24, 20).astype(np.int16))
    sitk.WriteImage(image, tmp_path / "good.mha", useCompression=True)
    packed = bytearray((tmp_path / "good.mha").read_bytes())
    packed[-1000] ^= 255
    (tmp_path / "bad.mha").write_bytes(packed)
    made = Made(still, files(tmp_path, "*.mha"), tmp_path / "out")
    assert set(made.out) == {"good.mha"} and made.said("bad.mha", "damaged")


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_entries_that_are_not_utf8_come_out_byte_for_byte(tmp_path, still, suffix):
    image = sitk.GetImageFromArray(noise(3, 24, 20).astype(np.int16))
    image.SetMetaData("plain", "fine")
    file = tmp_path / f"a.{suffix}"
    sitk.WriteImage(image, file)
    marks = {"nrrd": (b"plain:=fine\n", b":="), "mha": (b"plain = fine\n", b" = ")}
    line, mark = marks[suffix]
    lines = [b"Ger\xe4t" + mark + b"S\xf6matom", b"maker" + mark + b"S\xf6matom"]
    whole = file.read_bytes()
    assert whole.count(line) == 1
    file.write_bytes(whole.replace(line, line + b"\n".join(lines) + b"\n"))
    made = Made(still, [file, tmp_path / "none"], tmp_path / "out")
    (out,) = made.out.values()
    for kept in (line.strip(), *lines):
        assert out.read_bytes().count(b"\n" + kept + b"\n") == 1
    assert sitk.ReadImage(out).GetSize() == (40, 48, 3)
    again = Made(still, [file, tmp_path / "none"], tmp_path / "out")
    assert len(again.errors) == 1 and not again.out  # done before


@pytest.mark.parametrize("kind", ["png", "nii", "dicom", "series"])
def test_a_changed_input_is_restored_again_and_another_one_is_not(tmp_path, still, kind):
    "By its contents; a file of the same name that is older than the result is another one."

    def write(folder, seed):
        values = np.random.default_rng(seed).normal(-500, 300, (32, 32)).round().clip(-1024)
        folder.mkdir(exist_ok=True)
        if kind == "png":
            path = folder / "a.png"
            Image.fromarray((values / 8 + 128).clip(0, 255).astype(np.uint8)).save(path)
        elif kind == "nii":
            path = volume(folder / "a.nii", np.stack([values] * 2, -1))
        else:
            for z in range(2):
                path = ct(folder / "s", f"{z}.dcm", ImagePositionPatient=[0, 0, 5 * z])
                d = pydicom.dcmread(path)
                d.Rows = d.Columns = 32
                d.PixelData = (values + 1024 + z).astype(np.int16).tobytes()
                d.save_as(path)
            path = folder / "s" if kind == "series" else path
        return path

    def run(path):
        rows = upscale([path, tmp_path / "none"], tmp_path / "out", still)
        return next(row for row in rows if row["path"] == path)

    other = write(tmp_path / "other", 1)
    first = run(write(tmp_path / "in", 0))
    assert "out" in first and "before" in run(first["path"])
    assert "of another input" in run(other)["error"]
    old = {f: f.read_bytes() for f in files(tmp_path / "out", "**/*")}
    write(tmp_path / "in", 2)
    later = time.time() + 5
    for file in files(tmp_path / "in", "**/*"):
        os.utime(file, (later, later))
    again = run(first["path"])
    assert again["out"] == first["out"] and "before" in run(first["path"])
    new = {f: f.read_bytes() for f in files(tmp_path / "out", "**/*")}
    assert new.keys() == old.keys() and all(new[f] != old[f] for f in old)


# 4. Headers that contradict themselves, and names at the limits.


def restored(still, file, out):
    "The result for one file; None where it is refused, with the reason."
    (row,) = upscale([file], out, still)
    return row.get("out"), row.get("error", "")


def by_both(still, file, folder, said):
    "The restored slice, which `data` takes, too; none if both refuse it with the same words."
    out, error = restored(still, file, folder / "out.dcm")
    found, skipped = data(folder / "in")
    if said:
        assert said in error and said in skipped[""] and not out
        return None
    assert found and out and not error
    return out


@pytest.mark.parametrize(
    "tags, said",
    [
        (dict(PixelSpacing=[-0.7, -0.7]), "PixelSpacing"),
        (dict(PixelSpacing=[0, 0]), "PixelSpacing"),
        (dict(PixelSpacing=[0.7, 0.7]), ""),
        (dict(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), "length 1"),
        (dict(ImageOrientationPatient=[0.999, 0, 0, 0, 0.999, 0]), ""),
        (dict(RescaleSlope=-1, RescaleIntercept=1000, PixelRepresentation=0), ""),
        (dict(RescaleSlope=1, RescaleIntercept=1000, PixelRepresentation=0), "intercept of 1000"),
        (dict(RescaleSlope=1, RescaleIntercept=0, PixelRepresentation=0), "names no intercept"),
    ],
)
def test_geometry_and_scale_that_cannot_be(tmp_path, still, tags, said):
    "Both commands refuse them; where a file is good, the grid keeps its outer edges."
    file = ct(tmp_path / "in", **tags)
    out = by_both(still, file, tmp_path, said)
    if not out:
        return
    old, new = pydicom.dcmread(file), pydicom.dcmread(out)
    assert np.allclose(np.multiply(new.PixelSpacing, 2), old.PixelSpacing, atol=1e-6)
    shift = np.subtract(new.ImagePositionPatient, old.ImagePositionPatient)
    assert np.allclose(shift[:2], np.multiply(old.PixelSpacing, -0.25), atol=1e-4)


def test_a_slice_without_pixel_size_keeps_its_position(tmp_path, still):
    file = ct(tmp_path / "in")
    d = pydicom.dcmread(file)
    del d.PixelSpacing
    d.save_as(file)
    new = pydicom.dcmread(restored(still, file, tmp_path / "out.dcm")[0])
    assert new.ImagePositionPatient == d.ImagePositionPatient and "PixelSpacing" not in new


@pytest.mark.parametrize(
    "tags, name, expected",
    [
        (dict(ImageType="ORIGINAL"), "ImageType", [*"DS", "AXIAL"]),
        (dict(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]), "ImageType", [*"DS", "AXIAL"]),
        (dict(SeriesNumber=2**31 - 1), "SeriesNumber", 2**31 - 1),
        (dict(SeriesNumber=7), "SeriesNumber", 1007),
        (dict(SeriesDescription=["a", "b"]), "SeriesDescription", "a b ctsr "),
        (dict(SeriesDescription="chest"), "SeriesDescription", "chest ctsr "),
    ],
)
def test_tags_with_one_value_or_several(tmp_path, still, tags, name, expected):
    new = pydicom.dcmread(restored(still, ct(tmp_path / "in", **tags), tmp_path / "out.dcm")[0])
    if name == "ImageType":
        assert list(new.ImageType) == ["DERIVED", "SECONDARY", *expected[2:]]
    elif name == "SeriesNumber":
        assert new.SeriesNumber == expected
    else:
        assert new.SeriesDescription.startswith(expected)


def headless(path, big_endian):
    "A slice with explicit types, without a preamble and without the header of the file."
    d = pydicom.dcmread(ct(path.parent, path.name))
    hu = d.pixel_array + d.RescaleIntercept
    d.PixelData = d.pixel_array.astype(">i2" if big_endian else "<i2").tobytes()
    body = pydicom.Dataset({e.tag: e for e in d if not e.tag.is_private})
    options = dict(implicit_vr=False, little_endian=not big_endian)
    pydicom.dcmwrite(path, body, **options, force_encoding=True)
    assert path.read_bytes()[:2] == (b"\0\x08" if big_endian else b"\x08\0")
    return hu


@pytest.mark.parametrize("big_endian", [False, True])
def test_slices_without_a_header_say_the_order_of_their_bytes(tmp_path, still, big_endian):
    path = tmp_path / "in" / "a.dcm"
    hu = headless(path, big_endian)
    assert np.array_equal(hounsfield(read_slice(path)), hu)
    new = pydicom.dcmread(restored(still, path, tmp_path / "out.dcm")[0])
    assert new.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert abs((new.pixel_array + float(new.RescaleIntercept)).mean() - hu.mean()) < 2


def test_pixels_that_are_no_single_image(tmp_path, still):
    "Compressed pixels of a file that says they are not, and twice the pixels of one image."
    file = ct(tmp_path / "in", "good.dcm")
    d = pydicom.dcmread(file)
    d.PixelData = np.random.default_rng(0).integers(0, 2000, (128, 128), np.int16).tobytes()
    d.compress(pydicom.uid.RLELossless)
    d.save_as(tmp_path / "in" / "packed.dcm")
    data_of = (tmp_path / "in" / "packed.dcm").read_bytes()
    assert data_of.count(b"1.2.840.10008.1.2.5\0") == 1
    denied = data_of.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0")
    (tmp_path / "in" / "denied.dcm").write_bytes(denied)
    for name, extra in (("twice", 2**15), ("filled", 2)):
        d = pydicom.dcmread(file)
        d.PixelData += bytes(extra)
        d.save_as(tmp_path / "in" / f"{name}.dcm")
    made = Made(still, files(tmp_path / "in"), tmp_path / "out")
    assert set(made.out) == {"good.dcm", "packed.dcm", "filled.dcm"}
    assert made.said("denied.dcm", "compressed") and made.said("twice.dcm", "65536 bytes")


@pytest.mark.parametrize(
    "name", ["a" * 246 + ".png", "ü" * 124 + ".png", "b" * 245 + ".nrrd", "1.2." + "3" * 251]
)
def test_names_as_long_as_a_file_system_allows(tmp_path, still, name):
    "Results have the names of the inputs, and the temporary names on the way must fit as well."
    file = tmp_path / "in" / name
    file.parent.mkdir()
    if name.endswith(".png"):
        Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(file)
    elif name.endswith(".nrrd"):
        hu = sitk.GetImageFromArray(noise(2, 24, 20).astype(np.int16))
        sitk.WriteImage(hu, file)
    else:
        os.rename(ct(tmp_path / "in"), file)
    for out in (tmp_path / "out", tmp_path / "again"):
        made = Made(still, [file, tmp_path / "none"], out)
        assert set(made.out) == {name} and files(out) == [out / name]
    made = Made(still, [file.parent, tmp_path / "none"], tmp_path / "folder")
    if name[0] == "1":
        assert files(made.out["in"]) == [tmp_path / "folder" / "in" / name]


def test_pictures_of_another_kind_than_their_name(tmp_path, still):
    "Sixteen bits do not fit into a JPEG file; a PNG picture of eight does."
    for name, kind, step in (("deep.jpg", np.uint16, 60), ("flat.jpg", np.uint8, 1)):
        levels = (np.arange(1024).reshape(32, 32) % 256 * step).astype(kind)
        Image.fromarray(levels).save(tmp_path / name, format="PNG")
    made = Made(still, files(tmp_path), tmp_path / "out")
    assert set(made.out) == {"flat.jpg"} and made.said("deep.jpg", "16 bits", ".png")
    with Image.open(made.out["flat.jpg"]) as image:
        assert image.format == "JPEG"


def test_a_tiny_image_is_no_label_map(tmp_path, still):
    "Of nine pixels no value is repeated often; of 256 pixels with two values both are."
    few = noise(3, 3, 2)
    two = np.where(noise(16, 16, 2) > -500, 1, 0)
    made = Made(
        still,
        [volume(tmp_path / "few.nii", few), volume(tmp_path / "two.nii", two)],
        tmp_path / "out",
    )
    assert set(made.out) == {"few.nii"} and made.said("two.nii", "label map")


WRONG = {  # name, first bytes, reason
    "text.nii": (b"see you tomorrow\n" * 40, "is no NIfTI file"),
    "nrrd.nii": (b"NRRD0004\ntype: short\n" * 40, "is no NIfTI file"),
    "nifti.nrrd": (None, "is no NRRD file"),
    "nifti.mha": (None, "is no MetaImage file"),
    "zeros.mha": (bytes(2**21), "is no MetaImage file"),
    "empty.nii.gz": (gzip.compress(b""), "ends in its header"),
    "packed.dcm": (gzip.compress(bytes(999)), "is no DICOM image"),
    "login.dcm": (b"<html>Session expired</html>\n" * 40, "is no DICOM image"),
}


def test_files_of_another_kind_than_their_name(tmp_path, still, capfd):
    "Each has a reason and a remedy, and no library prints anything."
    good = volume(tmp_path / "good.nii", noise(24, 20, 3)).read_bytes()
    for name, (start, _) in WRONG.items():
        (tmp_path / name).write_bytes(good if start is None else start)
    image = sitk.GetImageFromArray(noise(3, 24, 20).astype(np.int16))
    sitk.WriteImage(image, tmp_path / "whole.mha")
    os.rename(tmp_path / "whole.mha", tmp_path / "WHOLE.MHA")
    whole = (tmp_path / "WHOLE.MHA").read_bytes()
    absent = {"DimSize": b"DimSize = 20 24 3\n", "ElementType": b"ElementType = MET_SHORT\n"}
    for name, line in absent.items():
        assert whole.count(line) == 1
        (tmp_path / f"no{name}.mha").write_bytes(whole.replace(line, b""))
    capfd.readouterr()
    made = Made(still, files(tmp_path), tmp_path / "out")
    _, skipped = data(tmp_path)
    reasons = {name: reason for name, (_, reason) in WRONG.items()}
    reasons |= {f"no{name}.mha": f"has no {name}" for name in absent}
    for name, reason in reasons.items():
        assert made.said(name, reason) and reason in skipped[name], made.errors
    assert set(made.out) == {"good.nii", "WHOLE.MHA"}
    assert capfd.readouterr().err == ""


def test_one_file_named_twice_is_restored_once(tmp_path, still):
    "A link to it has a name of its own, and a result of its own."
    grey = np.arange(1024).reshape(32, 32).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "c").mkdir()
    inputs = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c" / ".." / "a.png"]
    made = Made(still, inputs, tmp_path / "out")
    assert not made.errors and set(made.out) == {"a.png", "b.png"}


def test_an_output_below_a_file(tmp_path, still):
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(tmp_path / "a.png")
    for out in (tmp_path / "a.png" / "b.png", tmp_path / "a.png" / "c" / "b.png"):
        assert f"{tmp_path / 'a.png'}" in restored(still, tmp_path / "a.png", out)[1]
        assert "is no folder" in restored(still, tmp_path / "a.png", out)[1]
    assert restored(still, tmp_path / "a.png", tmp_path / "new" / "b.png")[0]


@pytest.mark.parametrize("limit, found", [(4, False), (6, True)])
def test_a_search_for_series_below_a_folder_ends(tmp_path, still, monkeypatch, limit, found):
    import ctsr.apps.formats as module

    monkeypatch.setattr(module, "LOOKED_AT", limit)
    (tmp_path / "a").mkdir()
    for n in range(5):
        (tmp_path / "a" / f"{n}.txt").write_text("notes")
    ct(tmp_path / "b")
    _, error = restored(still, tmp_path, tmp_path.parent / "out")
    assert "holds no DICOM files" in error and (str(tmp_path / "b") in error) == found


def test_files_of_the_system_are_not_opened():
    "Some of them never end, and the system says that each has no bytes."
    if not Path("/proc/self/status").exists():
        pytest.skip("there is no /proc here")
    assert not is_dicom(Path("/proc/self/status")) and is_dicom(
        Path(get_testdata_file("CT_small.dcm"))
    )
    with pytest.raises(CTSRError, match="is empty"):
        open_scan("/proc/self/status")


def test_a_picture_of_numbers_that_lost_their_sign(tmp_path, still):
    "-1000 HU in 16 bits without a sign is 64536; with 1024 added there is nothing to mend."
    hu = noise(32, 32).clip(-1024, 500).astype(np.int16)
    for name, levels in (("lost", hu.view(np.uint16)), ("added", (hu + 1024) * 40)):
        Image.fromarray(levels.astype(np.uint16)).save(tmp_path / f"{name}.png")
    found, skipped = data(tmp_path)
    made = Made(still, files(tmp_path), tmp_path / "out")
    assert set(made.out) == {"added.png"} and made.said("lost.png", "lost their sign")
    assert set(found) == {"added.png"} and "lost their sign" in skipped["lost.png"]


@pytest.mark.parametrize("kind", ["CSA REPORT", "DOSE_INFO", "AXIAL"])
def test_a_page_of_text_next_to_a_series(tmp_path, still, kind):
    "Scanners store their protocol as CT slices without a position, in the same series."
    folder = tmp_path / "in"
    for z in range(3):
        tags = dict(SeriesInstanceUID="1.2.3", SOPInstanceUID=f"1.2.{z + 1}")
        if z == 2:
            tags["ImageType"] = ["DERIVED", "SECONDARY", "OTHER", kind]
        ct(folder, f"{z}.dcm", ImagePositionPatient=[0, 0, 5 * z], **tags)
    made = Made(still, [folder, tmp_path / "none"], tmp_path / "out")
    found, skipped = data(folder)
    count = 3 if kind == "AXIAL" else 2
    assert len(files(made.out["in"])) == count == sum(map(len, found.values()))
    assert made.said("2.dcm", "page of text") == ("2.dcm" in skipped) == (count == 2)


def test_identifiers_that_some_slices_lack(tmp_path, still):
    "The others name them, and the series stays one in one frame of reference."
    folder = tmp_path / "in"
    names = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    for z in range(3):
        tags = dict.fromkeys(names, "") if z == 1 else {name: f"1.2.{len(name)}" for name in names}
        ct(folder, f"{z}.dcm", ImagePositionPatient=[0, 0, 5 * z], **tags)
    made = Made(still, [folder, tmp_path / "none"], tmp_path / "out")
    new = [pydicom.dcmread(f) for f in files(made.out["in"])]
    assert len(new) == 3
    for name in names:
        (found,) = {str(d[name].value) for d in new}
        assert (found == f"1.2.{len(name)}") == (name != "SeriesInstanceUID")


def test_a_dry_run_knows_a_place_that_cannot_be_written(tmp_path, still):
    "A folder of the result's name, and a file where a folder is needed."
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    for out in ("out", "a.png/b.png", "new/b.png"):
        for force in (False, True):
            rows = [
                upscale([tmp_path / "a.png"], tmp_path / out, still, force=force, dry_run=dry)
                for dry in (True, False)
            ]
            errors = [row[0].get("error", "") for row in rows]
            assert errors[0] == errors[1] and bool(errors[0]) == (out != "new/b.png")
    assert not list((tmp_path / "out" / "a.png").iterdir())


@pytest.mark.parametrize("level, refused", [(600, True), (601, False)])
def test_transparent_levels_of_sixteen_bits(tmp_path, still, level, refused):
    "Of levels in steps of 60, one is transparent if the picture has it."
    levels = (np.arange(1024).reshape(32, 32) * 60).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png", transparency=level)
    made = Made(still, [tmp_path / "a.png", tmp_path / "none"], tmp_path / "out")
    assert made.said("a.png", "transparent") == refused != bool(made.out)


def test_a_picture_of_apples_own_kind(tmp_path, still):
    "Xcode leaves out the header of zlib, and marks that by a first chunk of its own."
    grey = np.arange(1024).reshape(32, 32).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "good.png")
    plain = (tmp_path / "good.png").read_bytes()
    mark = b"\0\0\0\4CgBI\x50\0\x20\x06\x2c\xb8\x77\x66"
    head, _, tail = plain[8:].partition(b"IDAT\x78")
    (tmp_path / "apple.png").write_bytes(plain[:8] + mark + head + b"IDAT\xff" + tail)
    made = Made(still, files(tmp_path, "*.png"), tmp_path / "out")
    _, skipped = data(tmp_path)
    assert set(made.out) == {"good.png"} and made.said("apple.png", "CgBI")
    assert "CgBI" in skipped["apple.png"]


def test_a_link_that_leads_in_a_circle(tmp_path, still):
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert "leads in a circle" in restored(still, tmp_path / "a.png", tmp_path / "out.png")[1]
    with pytest.raises(CTSRError, match="leads in a circle"):
        read_images(tmp_path / "a.png")


LOOK = """
import sys
from ctsr.apps.formats import open_scan, read_grey
from ctsr.data.readers import read_images
scan = open_scan(sys.argv[1])
scan.save(((values, None) for values in scan), scan.path.with_name("out"), model="a test")
print(len(read_images(sys.argv[1])[0]), scan.padded)
"""


@pytest.mark.slow
def test_libraries_warn_of_nothing(tmp_path):
    "Identifiers and character sets that no standard knows, in a process that shows all warnings."
    wrong = dict(StudyInstanceUID="1..2", SeriesInstanceUID="series", FrameOfReferenceUID="01.2")
    with warnings.catch_warnings(action="ignore"):
        ct(tmp_path / "in", SpecificCharacterSet="ISO_IR 999", **wrong)
    command = [sys.executable, "-W", "default", "-c", LOOK, tmp_path / "in"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("1 ")
    assert "pydicom" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_stderr_costs_lines_and_no_results(tmp_path, still):
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(tmp_path / "a.png")
    inputs = [tmp_path / "a.png", tmp_path / "none.png"]
    with open("/dev/full", "w") as full:
        run = start_ctsr("upscale", *inputs, "-o", tmp_path / "out", "--model", still, stderr=full)
        printed, _ = run.communicate()
    assert run.returncode == 2 and "a.png" in printed
    assert files(tmp_path / "out") == [tmp_path / "out" / "a.png"]


# 5. Links, names of networks, and values that a format cannot hold.


@pytest.mark.parametrize("name", ["loop", "loop/b.png", "loop/deeper/b.png"])
def test_a_link_in_a_circle_as_output_or_on_the_way(tmp_path, still, name):
    file = tmp_path / "a.png"
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(file)
    (tmp_path / "loop").symlink_to("loop")
    for dry_run in (True, False):
        (row,) = upscale([file], tmp_path / name, still, dry_run=dry_run)
        assert "loop is a link to nothing" in row["error"]
    rows = upscale([tmp_path / "loop" / "a.png", file], tmp_path / "out", still)
    assert "circle" in rows[0]["error"] and rows[1]["out"].exists()


def test_an_output_folder_that_holds_the_input(tmp_path, still):
    "The remedy is never --force, which does not overwrite an input."
    file = tmp_path / "a.png"
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(file)
    before = file.read_bytes()
    (tmp_path / "here").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "here"):
        for force in (False, True):
            (row,) = upscale([file], out, still, force=force)
            assert "is an input" in row["error"] and "--force" not in row["error"]
    assert file.read_bytes() == before


def test_a_slice_that_is_a_link_to_nothing_or_a_pipe_is_named(tmp_path, still):
    folder = tmp_path / "in"
    for z in range(3):
        ct(folder, f"{z}.dcm", ImagePositionPatient=[0, 0, 5 * z])
    assert not Made(still, [folder, tmp_path / "none"], tmp_path / "whole").said("in/")
    (folder / "3.dcm").symlink_to("nowhere.dcm")
    os.mkfifo(folder / "4.dcm")
    (folder / "5.dcm").touch()
    (folder / "sub").mkdir()
    made = Made(still, [folder, tmp_path / "none"], tmp_path / "out")
    assert len(files(made.out["in"])) == 3
    found, skipped = data(folder)
    assert sum(map(len, found.values())) == 3
    for name, reason in (("3.dcm", "link to nothing"), ("4.dcm", "pipe"), ("5.dcm", "is empty")):
        assert made.said(name, reason) and reason in skipped[name]
    assert not made.said("sub")


def test_a_folder_of_slices_called_dicomdir(tmp_path, still):
    folder = tmp_path / "DICOMDIR"
    ct(folder)
    made = Made(still, [folder, tmp_path / "none"], tmp_path / "out")
    assert len(files(made.out["DICOMDIR"])) == 1
    index = Path(shutil.copy(folder / "a.dcm", tmp_path / "out" / "DICOMDIR" / "DICOMDIR"))
    out, error = restored(still, index, tmp_path / "b.dcm")
    assert not out and "index" in error


@pytest.mark.parametrize("said, expected", [(b"    ", None), (b"7 ", 1007)])
def test_a_series_number_of_blanks(tmp_path, still, said, expected):
    file = ct(tmp_path / "in")
    d = pydicom.dcmread(file)
    raw = d.get_item("SeriesNumber")
    d[raw.tag] = pydicom.dataelem.RawDataElement(raw.tag, "IS", len(said), said, 0, False, True)
    d.save_as(file)
    out, error = restored(still, file, tmp_path / "out.dcm")
    assert not error and (pydicom.dcmread(out).SeriesNumber or None) == expected


@pytest.mark.parametrize("name", ["сеть é", "a | b\nc\\d", "plain"])
def test_a_network_of_any_name_is_known_again(tmp_path, still, name):
    "What a result says of its making is the same in every kind of file, and others read the file."
    network = shutil.copytree(still, tmp_path / name)
    folder = tmp_path / "in"
    ct(folder)
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(folder / "a.png")
    Image.open(folder / "a.png").save(folder / "b.jpg")
    for suffix in ("nii", "nrrd", "mha"):
        sitk.WriteImage(sitk.GetImageFromArray(noise(3, 24, 20)), folder / f"v.{suffix}")
    made = Made(network, files(folder), tmp_path / "out")
    assert len(made.out) == 6 and not made.errors
    rows = upscale(files(folder), tmp_path / "out", network)
    assert all("before" in row for row in rows), rows
    for suffix in ("nii", "nrrd", "mha"):
        assert sitk.ReadImage(made.out[f"v.{suffix}"]).GetSize() == (40, 48, 3)


@pytest.mark.parametrize(
    "name, dpi, kept",
    [
        ("a.jpg", 30000, True),
        ("a.jpg", 40000, False),
        ("a.png", 5e7, True),
        ("a.png", 1e8, False),
    ],
)
def test_a_resolution_that_the_format_cannot_hold(tmp_path, still, name, dpi, kept):
    "The picture is restored without one, rather than with a false one or not at all."
    file = tmp_path / name
    picture = Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8))
    picture.save(file, dpi=(dpi, dpi))
    found = Image.open(restored(still, file, tmp_path / f"out{file.suffix}")[0]).info.get("dpi")
    assert np.allclose(found, 2 * dpi, rtol=1e-6) if kept else found is None


@pytest.mark.parametrize("codes, used", [((0, 77), True), ((9, 0), True), ((0, 0), False)])
def test_a_nifti_form_of_an_unknown_code_is_kept(tmp_path, still, codes, used):
    "By the standard any code above 0 says that there is a form, as SimpleITK reads it."
    affine = np.array([[-0.7, 0, 0, 30], [0, 0.7, 0, -20], [0, 0, 5, 7], [0, 0, 0, 1]])
    file = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(noise(24, 20, 3).astype(np.int16), affine)
    image.set_qform(affine, 1)
    nibabel.save(image, file)
    content = bytearray(file.read_bytes())
    content[252:256] = np.array(codes, "<i2").tobytes()
    file.write_bytes(content)
    old = sitk.ReadImage(file)
    new = sitk.ReadImage(restored(still, file, tmp_path / "out.nii")[0])
    edges = [i.TransformContinuousIndexToPhysicalPoint([-0.5] * 3) for i in (old, new)]
    assert np.allclose(*edges, atol=1e-3) == used
    assert np.allclose(load_file(file).affine[:3, 3], [-30, 20, 7] if used else 0, atol=1e-3)


@pytest.mark.parametrize(
    "values, said",
    [
        ("LIST\ns0.raw\ns1.raw\ns2.raw\n", ""),
        ("LIST\ns0.raw\ns1.raw\n", "3 slices and names 2 files"),
        ("LIST\ns0.raw\ns1.raw\ngone.raw\n", "lacks gone.raw"),
        ("LIST\ns0.raw\ns1.raw\nshort.raw\n", "short.raw is too short"),
        ("s%d.raw 0 2 1\n", ""),
        ("s%d.raw 0 1 1\n", "3 slices and names 2 files"),
        ("s%d.raw 1 3 1\n", "lacks s3.raw"),
        ("s%d.raw one two\n", "cannot be read"),
    ],
)
def test_meta_image_with_a_file_for_each_slice(tmp_path, still, capfd, values, said):
    "A slice without a file would be whatever lies in memory; and ITK would print."
    hu = noise(3, 24, 20).astype("<i2")
    for z in range(3):
        (tmp_path / f"s{z}.raw").write_bytes(hu[z].tobytes())
    (tmp_path / "short.raw").write_bytes(hu[0].tobytes()[:-2])
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    head += "DimSize = 20 24 3\nElementType = MET_SHORT\nElementDataFile = "
    file = tmp_path / "a.mha"
    file.write_text(head + values)
    out, error = restored(still, file, tmp_path / "out.mha")
    if said:
        assert said in error and not out and said in data(file)[1][""]
    else:
        assert np.array_equal(load_file(file).stored, hu.T) and out.exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("out", ["loop", "loop/deeper", "/proc/deeper", "n" * 300])
def test_a_prepared_set_that_cannot_be_written(tmp_path, out):
    file = tmp_path / "a.png"
    Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8)).save(file)
    (tmp_path / "loop").symlink_to("loop")
    done = ctsr("data", file, "--hr", "32", "--out", tmp_path / out)
    assert (
        done.returncode == 2 and "cannot write" in done.stderr and "choose another" in done.stderr
    )
    assert not ctsr("data", file, "--hr", "32", "--out", tmp_path / "out").returncode


@pytest.mark.parametrize("source", ["loop", "loop/a.png"])
def test_a_source_behind_a_link_in_a_circle(tmp_path, source):
    (tmp_path / "loop").symlink_to("loop")
    done = ctsr("data", tmp_path / source, "--out", tmp_path / "out")
    assert done.returncode == 2 and "leads in a circle" in done.stderr


def test_a_folder_that_is_called_zip(tmp_path):
    folder = tmp_path / "unpacked.zip"
    ct(folder)
    found, skipped = data(folder)
    assert len(found) == 1 and not skipped
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.write(folder / "a.dcm", "a.dcm")
    assert list(data(tmp_path / "packed.zip")[0]) == ["a.dcm"]


@pytest.mark.parametrize(
    "end, said", [("", ""), ("\n", ""), ("short", "1440 values, there are 1439")]
)
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_meta_image_with_values_as_text(tmp_path, still, capfd, suffix, end, said):
    "With a blank after the last number or without; ITK would refuse the latter, and print."
    hu = noise(3, 24, 20).astype(np.int16)
    numbers = " ".join(map(str, hu.ravel()[: 1439 if said else None])) + end.removesuffix("short")
    head = "ObjectType = Image\nNDims = 3\nBinaryData = False\nElementSpacing = 0.7 0.7 5\n"
    head += "DimSize = 20 24 3\nElementType = MET_SHORT\nElementDataFile = "
    file = tmp_path / f"a{suffix}"
    file.write_text(head + (f"LOCAL\n{numbers}" if suffix == ".mha" else "a.txt\n"))
    (tmp_path / "a.txt").write_text(numbers)
    found, skipped = data(file)
    if said:
        assert said in skipped[""]
    else:
        assert found and np.array_equal(load_file(file).stored, hu.T)
    if suffix == ".mha":  # .mhd is for `data` alone
        out, error = restored(still, file, tmp_path / "out.mha")
        assert said in error and bool(out) != bool(said)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "kind, said",
    [("monochrome2", ""), (" MONOCHROME2", ""), ("monochrome1", "invert it"), ("rgb", "RGB")],
)
def test_pixels_of_a_kind_that_is_written_oddly(tmp_path, still, kind, said):
    with warnings.catch_warnings(action="ignore"):  # of pydicom
        file = ct(tmp_path / "in", PhotometricInterpretation=kind)
    out = by_both(still, file, tmp_path, said)
    if not out:
        return
    old, new = (sitk.GetArrayFromImage(sitk.ReadImage(f)).mean() for f in (file, out))
    assert abs(old - new) < 2


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_with_a_damaged_member(tmp_path, method):
    "Only this member is lost, also where its reader would not see the damage."
    volume(tmp_path / "a.nii", noise(20, 24, 3))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name in ("a.nii", "b/a.nii"):
            archive.write(tmp_path / "a.nii", name)
    assert len(data(tmp_path / "a.zip")[0]) == 2
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"b/a.nii") + 1000] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    found, skipped = data(tmp_path / "a.zip")
    assert list(found) == ["a.nii"] and "damaged in the archive" in skipped["b/a.nii"]
    with pytest.raises(CTSRError, match="b/a.nii in .* is damaged in the archive"):
        read_images(tmp_path / "a.zip", on_error="raise")


def test_an_archive_with_a_password(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"picture")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[6] |= 1  # the flag of encryption, next to the file and in the list of files
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(CTSRError, match="unpack it with its password"):
        read_images(tmp_path / "a.zip")
