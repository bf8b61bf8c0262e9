"""Tables of ablations, which decide the study's conclusions: each on both sides of its rule."""

import numpy as np
import pandas as pd
import pytest

from ctsr.core.errors import CTSRError
from ctsr.evaluation.ablations import (
    choice_table,
    effect_table,
    gain_sentence,
    gain_text,
    gains_text,
    kept_scores,
    leak_table,
    leak_worth,
    recalled,
    recalled_sentence,
    seed_table,
)
from ctsr.evaluation.table import COLUMNS, tidy

N = 40
LEVEL = 26 + np.random.default_rng(1).normal(0, 1, N)
LEAKED = np.array(["exact", "none", "near", "none"] * (N // 4))
CLASS = np.array(["a"] * 20 + ["b"] * 20)
INPUT = ["bilinear", "bilinear", "x5"]


def scored(run, gain, seed=None, metric="psnr", wobble=0.0, group=2):
    "Scores of one run: the level of each image, plus a gain, plus an alternating wobble."
    frame = pd.DataFrame(dict.fromkeys(COLUMNS, ""), index=range(N))
    value = LEVEL + gain + wobble * np.where(np.arange(N) % 4 < 2, 1, -1)
    frame = frame.assign(run=run, up="bilinear", task="x5", seed=seed, metric=metric, value=value)
    frame["protocol"] = "standard" if metric != "lpips" else ""
    frame["image_id"] = [f"i{i:02d}" for i in range(N)]
    frame["group"] = [f"g{i // group:02d}" for i in range(N)]
    return frame.assign(leaked=LEAKED, **{"class": CLASS})


def table(*runs):
    return tidy(pd.concat([scored("bilinear", 0.0), *runs]))


def condition(run):
    return [run, "bilinear", "x5"]


def test_gain_interval_and_spread_over_seeds():
    scores = table(*(scored("net", 1 + 0.1 * s, s, wobble=0.5) for s in range(3)))
    found = seed_table(scores, {"net": condition("net")}, draws=500).set_index("subset")
    assert list(found.index) == ["all", "leak-free"] and list(found.n) == [40, 20]
    assert found.gain["all"] == pytest.approx(1.1) and found["sd"]["all"] == pytest.approx(0.1)
    assert found.lowest["all"] == pytest.approx(1.0) and found.highest["all"] == pytest.approx(1.2)
    assert found.lo95["all"] < 1.1 < found.hi95["all"]
    assert found["mean"]["all"] == pytest.approx(LEVEL.mean() + 1.1)


def test_no_leak_free_row_where_every_image_has_a_copy_and_one_where_some_have_none():
    scores = table(scored("net", 1.0, 0))
    everything = scores.assign(leaked="exact")
    shown = {"net": condition("net")}
    assert list(seed_table(everything, shown, draws=50).subset) == ["all"]
    assert list(seed_table(scores, shown, draws=50).subset) == ["all", "leak-free"]


def test_a_condition_that_was_not_measured_is_refused():
    scores = table(scored("net", 1.0, 0))
    with pytest.raises(CTSRError, match="did not measure psnr of other"):
        seed_table(scores, {"other": condition("other")}, draws=50)
    with pytest.raises(CTSRError, match="did not measure psnr of other"):
        leak_table(scores, {"other": condition("other")})


@pytest.mark.parametrize(
    "gains, wobble, agree, sure",
    [
        ((0.3, 0.4, 0.5), 0.1, True, True),
        ((0.3, 0.4, 0.5), 5.0, True, False),  # the interval over images contains zero
        ((0.3, -0.1, 0.9), 0.1, False, False),  # one seed disagrees
        ((-0.3, -0.4, -0.5), 0.1, True, True),
    ],
)
def test_an_effect_is_sure_only_if_images_and_seeds_agree(gains, wobble, agree, sure):
    seeds = range(len(gains))
    runs = [scored("base", 1.0, s) for s in seeds]
    runs += [scored("net", 1.0 + g, s, wobble=wobble) for s, g in zip(seeds, gains)]
    shown = {"base": condition("base"), "net": condition("net")}
    effects, points = effect_table(table(*runs), shown, draws=500)
    row = effects[effects.subset == "all"].iloc[0]
    assert row.effect == pytest.approx(np.mean(gains)) and row.seeds == 3
    assert (row.agree, row.sure) == (agree, sure)
    assert points[points.subset == "all"].value.tolist() == pytest.approx(list(gains))


def test_effects_pair_trainings_of_the_same_seed_only():
    runs = [scored("base", 1.0, 0), scored("base", 2.0, 1), scored("net", 2.5, 1)]
    shown = {"base": condition("base"), "net": condition("net")}
    effects, _ = effect_table(table(*runs), shown, draws=50)
    assert effects.effect[0] == pytest.approx(0.5) and effects.seeds[0] == 1


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_worth_of_a_leak_is_found_and_is_zero_where_there_is_none(memory):
    seen = scored("seen", 1.3 + memory * (LEAKED == "exact"), 0)  # more images are worth 0.3
    scores = table(seen, scored("unseen", 1.0, 0))
    found = leak_worth(scores, condition("seen"), condition("unseen"), draws=500)
    found = found.set_index("leaked")
    assert found.worth["exact"] == pytest.approx(memory, abs=1e-9)
    assert found.worth["near"] == pytest.approx(0, abs=1e-9)
    assert found.control["exact"] == pytest.approx(0.3)
    assert found.advantage["exact"] == pytest.approx(0.3 + memory)
    assert found.lo95["exact"] == pytest.approx(memory, abs=1e-6)  # no noise: no width
    assert list(found.n) == [10, 10] and list(found.controls) == [20, 20]


def test_worth_weighs_classes_by_their_copied_images():
    change = np.where(LEAKED == "exact", np.where(CLASS == "a", 1.0, 0.0), 0.0)
    scores = table(scored("seen", 1 + change, 0), scored("unseen", 1.0, 0))
    few_of_b = scores[~((scores["class"] == "b") & (scores.leaked == "exact"))]
    pair = (condition("seen"), condition("unseen"))
    assert leak_worth(scores, *pair, draws=50).worth[0] == pytest.approx(0.5)
    assert leak_worth(few_of_b, *pair, draws=50).worth[0] == pytest.approx(1.0)


def test_worth_has_an_interval_from_five_groups_of_controls_on():
    scores = table(scored("seen", 1.5, 0), scored("unseen", 1.0, 0))
    pair = (condition("seen"), condition("unseen"))
    in_a = scores[scores["class"] == "a"]
    clean = sorted(set(in_a[in_a.leaked == "none"].group))
    for count, known in ((5, True), (4, False)):
        few = in_a[(in_a.leaked != "none") | in_a.group.isin(clean[:count])]
        found = leak_worth(few, *pair, draws=50).iloc[0]
        assert found.groups == count and np.isfinite(found.lo95) == known
        assert found.worth == pytest.approx(0, abs=1e-9)


def test_a_class_with_few_controls_is_left_out_if_there_is_another():
    scores = table(scored("seen", 1.5, 0), scored("unseen", 1.0, 0))
    in_b = scores["class"].eq("b") & scores.leaked.eq("none")
    kept = sorted(set(scores[in_b].group))[:4]
    few = scores[~in_b | scores.group.isin(kept)]
    pair = (condition("seen"), condition("unseen"))
    assert leak_worth(scores, *pair, draws=50).left_out[0] == 0
    found = leak_worth(few, *pair, draws=50)
    assert found.left_out[0] == 5 and found.n[0] == 5


def test_no_control_no_worth():
    scores = table(scored("seen", 1.5, 0), scored("unseen", 1.0, 0))
    copied = scores[scores.leaked != "none"]
    found = leak_worth(copied, condition("seen"), condition("unseen"), draws=50)
    assert found.empty and "worth" in found


def test_leak_table_has_an_interval_from_five_groups_on():
    scores = table(scored("net", 1 + 0.5 * (LEAKED == "exact"), 0))
    found = leak_table(scores, {"net": condition("net")}, draws=50)
    a = found[found["class"] == "a"].set_index("leaked")
    assert a.gain["exact"] == pytest.approx(1.5) and a.gain["none"] == pytest.approx(1.0)
    assert a.groups["exact"] == 5 and np.isfinite(a.lo95["exact"])
    fewer = scores[scores.image_id != "i00"]
    found = leak_table(fewer, {"net": condition("net")}, draws=50)
    a = found[found["class"] == "a"].set_index("leaked")
    assert a.groups["exact"] == 4 and np.isnan(a.lo95["exact"])


@pytest.mark.parametrize(
    "exact, none, found",
    [(-2.0, 0.1, True), (0.1, 0.1, False), (-2.0, -3.0, False), (0.05, 0.5, False)],
)
def test_eight_views_tell_memorised_images(exact, none, found):
    change = np.select([LEAKED == "exact", LEAKED == "none"], [exact, none], 0.0)
    scores = table(scored("net", 1.0, 0), scored("net+", 1.0 + change, 0))
    views = recalled(scores, "net", "x5", draws=200)
    assert (views is not None) == found
    if found:
        assert views["exact"][0] == pytest.approx(exact)
        assert "−2.00" in recalled_sentence(views) and "+0.10" in recalled_sentence(views)


def test_eight_views_need_both_runs_and_both_kinds_of_image():
    one = table(scored("net", 1.0, 0))
    both = table(scored("net", 1.0, 0), scored("net+", 0.0, 0))
    assert recalled(one, "net", "x5") is None
    assert recalled(both.assign(leaked="none"), "net", "x5") is None


def test_gains_in_text():
    assert gain_text(2.616, 2.41, 2.838) == "+2.62 [2.41, 2.84]"
    assert gain_text(-0.5, np.nan, np.nan) == "−0.50"
    assert gain_text(0.1, -0.2, 0.4) == "+0.10 [−0.20, 0.40]"
    scores = table(scored("net", 1.0, 0))
    shown = {"net": condition("net")}
    sentence = gain_sentence(seed_table(scores, shown, draws=50), "net")
    assert sentence.startswith("**+1.00 dB** [1.00, 1.00] PSNR over its input on the 40 test")
    assert sentence.endswith("on the 20 leak-free ones")
    leak = scores.assign(leaked="exact")
    assert "leak-free" not in gain_sentence(seed_table(leak, shown, draws=50), "net")


def test_short_table_has_the_columns_that_there_is_something_for():
    lpips = [scored(run, -26.0, s, "lpips") for run, s in (("bilinear", None), ("net", 0))]
    scores = table(scored("net", 1.0, 0))
    shown = {"Input": INPUT, "Net": condition("net")}
    plain = gains_text(scores, shown, draws=50)
    gain = "over Input, dB [95 %]"
    assert list(plain) == ["", "PSNR, dB", gain, "the same, leak-free images"]
    assert list(plain[gain]) == ["", "+1.00 [1.00, 1.00]"]
    clean = gains_text(scores.assign(leaked="none"), shown, draws=50)
    assert list(clean) == ["", "PSNR, dB", gain]
    more = tidy(pd.concat([scores, *lpips]))
    full = gains_text(more, shown, {"Net": 27.5}, draws=50)
    assert list(full["paper, dB"]) == ["", "27.50"]
    assert full.LPIPS[1] == f"{LEVEL.mean() - 26:.3f}"


HISTORY = pd.DataFrame(
    dict(val_psnr=[20, 28, 27], val_lpips=[0.4, 0.3, 0.2], seconds=[60, 120, 180])
)
VALIDATED = pd.DataFrame(
    dict(metric="psnr", leaked=["near", "none"], mean=[28.4, 27.1], images=[30, 10])
)


def test_kept_scores_are_of_the_weights_that_were_kept():
    best = kept_scores(VALIDATED, HISTORY)
    assert best.psnr == pytest.approx((28.4 * 30 + 27.1 * 10) / 40) and best.psnr_unseen == 27.1
    assert best.lpips == 0.3 and best.minutes == 3
    assert kept_scores(VALIDATED, HISTORY, "last").lpips == 0.2
    plain = kept_scores(VALIDATED[:1], HISTORY.drop(columns="val_lpips"))
    assert set(plain.index) == {"psnr", "minutes"}


def test_choices_are_compared_seed_by_seed_and_chance_is_the_reference_s_own():
    def kept(*psnr):
        return [pd.Series(dict(psnr=p, minutes=3.0)) for p in psnr]

    choices = dict(plain=kept(28.0, 28.2), flips=kept(28.3, 28.4), once=kept(27.9))
    found = choice_table(choices).set_index("choice")
    assert found.worth["flips"] == pytest.approx(0.25) and found.seeds["once"] == 1
    assert found.lowest["flips"] == pytest.approx(0.2)
    assert found.highest["flips"] == pytest.approx(0.3)
    assert found.worth["plain"] == 0 and found.highest["plain"] == pytest.approx(0.2)
    assert found.lowest["plain"] == pytest.approx(-0.2)
    assert found.worth["once"] == pytest.approx(-0.1)
