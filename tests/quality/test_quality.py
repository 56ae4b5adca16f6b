from functools import cache

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestCentroid
from threadpoolctl import threadpool_limits
from torchmetrics.image.kid import poly_mmd

from slsr.images.decoding import decode_resized, encode_jpeg
from slsr.quality.assessment import Measured, assess, find_alarms
from slsr.quality.features import handcrafted, hog, unit_rows
from slsr.quality.measures import (
    NEIGHBORS,
    Neighborhoods,
    cluster_consistency,
    copy_fraction,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    same_picture_distance,
)

NAMES = ["kernel", "coverage", "recall", "precision", "density", "duplicates", "copies"]
SIMPLE = {"coverage": 0.5, "duplicates": 0.2, "copies": 0.05, "precision": 0.5, "recall": 0.1}
LIMITS = {**SIMPLE, "kernel_deviations": 20.0, "density": 2.0}


def pedestrians(count: int, seed: int) -> np.ndarray:
    """People of rectangles, head, coat, legs, each somewhere else and of other colors, before one of three walls."""
    walls = np.random.default_rng(99).uniform(60, 200, (3, 8, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    stream = np.random.default_rng(seed)
    pixels = walls[stream.integers(0, 3, count)] * stream.uniform(0.8, 1.2, (count, 1, 1, 1))
    for image in pixels:
        left, right, top = stream.integers(5, 11), stream.integers(21, 27), stream.integers(2, 9)
        waist, hem = top + stream.integers(22, 32), 62 - stream.integers(0, 5)
        image[top : top + 9, 12:20] = (200, 160, 130)
        image[top + 9 : waist, left:right] = stream.uniform(0, 255, 3)
        image[waist:hem, left + 2 : 15] = image[waist:hem, 17 : right - 2] = stream.uniform(0, 255, 3)
    return np.clip(pixels + stream.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def blurred(pixels: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    images = torch.nn.functional.avg_pool2d(images, 9, stride=1, padding=4, count_include_pad=False)
    return images.permute(0, 2, 3, 1).byte().numpy()


def stored(pixels: np.ndarray, quality: int = 90) -> np.ndarray:
    """As they come back from JPEG."""
    return decode_resized([encode_jpeg(image, quality) for image in pixels], *pixels.shape[1:3])


@cache
def real_features() -> np.ndarray:
    return handcrafted(REAL)


def blots(pixels: np.ndarray, amplitude: float = 0.1) -> np.ndarray:
    """Draw smooth colored noise around the mean image, with a share of the deviation that pixels have."""
    noise = np.random.default_rng(1).normal(size=pixels.shape)
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    drawn = pixels.mean(axis=0) + smooth / smooth.std() * amplitude * pixels.std(axis=0).mean()
    return np.clip(drawn, 0, 255).round().astype(np.uint8)


def measured(fake: np.ndarray):
    return assess(real_features(), handcrafted(fake), NAMES, seed=1)


def alarms(found) -> set[str]:
    return {alarm.alarm for alarm in find_alarms(found, LIMITS)}


REAL = pedestrians(150, 0)
UNSEEN = pedestrians(100, 1)


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("seed", range(2, 8))
def test_real_images_sound_no_alarm(seed):
    assert alarms(measured(pedestrians(40 + 10 * seed, seed))) == set()


def test_real_images_reach_the_reference():
    for name, value in measured(UNSEEN).items():
        assert value.value == pytest.approx(value.reference, abs=4 * value.reference_deviation + 0.03), name


def test_collapse_to_twenty_images():
    few = UNSEEN[np.random.default_rng(1).integers(0, 20, 100)]
    found = measured(stored(few))
    assert found["duplicates"].value > 0.9
    assert found["recall"].value < found["recall"].reference - 0.1
    assert alarms(found) == {"collapse"}


def test_collapse_to_one_image_also_loses_coverage():
    assert {alarm.measure for alarm in find_alarms(measured(UNSEEN[:1].repeat(100, 0)), SIMPLE)} == {
        "coverage",
        "duplicates",
        "recall",
    }


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_memorized_copies(share):
    copies = round(share * 100)
    noise = np.random.default_rng(1).normal(0, 3, (copies, *REAL.shape[1:]))
    copied = np.clip(REAL[:copies] + noise, 0, 255).astype(np.uint8)
    mixed = np.concatenate([stored(copied), UNSEEN[: 100 - copies]])
    found = measured(mixed)
    assert found["copies"].value == pytest.approx(share, abs=0.02)
    assert alarms(found) == {"memorization"}


@pytest.mark.parametrize("twins", [2, 30])
def test_exact_twins_among_the_real_images_do_not_silence_an_alarm(twins):
    """A quantile of distances to the nearest would be 0 where some have a twin, and nothing nearer than that."""
    real = np.concatenate([REAL, REAL[:twins]])
    distance = same_picture_distance(handcrafted(real))
    assert distance == pytest.approx(same_picture_distance(real_features()), rel=0.2)
    found = assess(handcrafted(real), handcrafted(REAL[:100]), NAMES, seed=1)
    assert found["copies"].value == 1
    assert "memorization" in alarms(found)


def test_real_images_that_are_all_one_picture_have_no_distance():
    assert same_picture_distance(np.ones((5, 3), np.float32)) == 0


def test_noise_blur_and_upside_down():
    noise = np.random.default_rng(1).integers(0, 256, UNSEEN.shape).astype(np.uint8)
    upside_down = UNSEEN[:, ::-1].copy()
    kernels = []
    for wrong in (noise, blurred(UNSEEN), upside_down):
        found = measured(wrong)
        kernels.append(found["kernel"].value)
        assert found["kernel"].value > found["kernel"].reference + 10 * found["kernel"].reference_deviation
        assert found["precision"].value < found["precision"].reference - 0.2
        assert found["density"].value < found["density"].reference / 2
        assert found["copies"].value == 0
        assert alarms(found) == {"unlike", "collapse", "narrow"}
    assert kernels[0] == max(kernels)


def test_blots_sound_unlike_although_their_precision_is_high(drawn_people):
    found = assess(handcrafted(drawn_people), handcrafted(blots(drawn_people)), NAMES, seed=1)
    assert found["precision"].value > 0.9
    assert found["kernel"].value > 1
    heard = {alarm.measure for alarm in find_alarms(found, LIMITS) if alarm.alarm == "unlike"}
    assert "kernel" in heard
    assert "precision" not in heard
    assert "unlike" not in {alarm.alarm for alarm in find_alarms(found, SIMPLE)}, "the rules without KID and density"


def test_real_people_in_the_place_of_generated_ones_sound_no_alarm(drawn_people):
    order = np.random.default_rng(1).permutation(len(drawn_people))
    known, taken = (handcrafted(drawn_people[half]) for half in np.array_split(order, 2))
    assert find_alarms(assess(known, taken, NAMES, seed=1), LIMITS) == []


def test_images_that_keep_to_the_middle_are_unlike_and_narrow():
    """Among many dimensions the middle is near everybody, so that coverage and precision praise it."""
    real, fake = (np.random.default_rng(seed).normal(0, 1, (200, 50)) for seed in (1, 2))
    columns = [np.pad(each, ((0, 0), (1, 0)), constant_values=20).astype(np.float32) for each in (real, 0.6 * fake)]
    found = assess(*columns, NAMES, seed=1)
    assert found["coverage"].value > 0.95
    assert found["precision"].value > 0.95
    assert alarms(found) == {"narrow", "unlike"}
    assert [alarm.measure for alarm in find_alarms(found, LIMITS) if alarm.alarm == "unlike"] == ["density"]
    assert alarms(assess(columns[0], np.pad(fake, ((0, 0), (1, 0)), constant_values=20), NAMES, seed=1)) == set()


def test_hog_is_that_of_a_loop():
    pixels = np.random.default_rng(3).integers(0, 256, (2, 35, 26, 3), dtype=np.uint8)
    np.testing.assert_allclose(hog(pixels), [naive_hog(image) for image in pixels], atol=1e-5)


def naive_hog(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[0] // 8 * 8, image.shape[1] // 8 * 8
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    cells = np.zeros((height // 8, width // 8, 9))
    for y in range(height):
        for x in range(width):
            gradients = [
                (padded[y + 2, x + 1, c] - padded[y, x + 1, c], padded[y + 1, x + 2, c] - padded[y + 1, x, c])
                for c in range(3)
            ]
            down, right = max(gradients, key=lambda pair: pair[0] ** 2 + pair[1] ** 2)
            degrees = np.degrees(np.arctan2(down, right)) % 180
            for number in range(9):
                center = 20 * number + 10
                apart = min(abs(degrees - center), 180 - abs(degrees - center))
                cells[y // 8, x // 8, number] += max(0, 1 - apart / 20) * np.hypot(down, right)
    blocks = []
    for y in range(height // 8 - 1):
        for x in range(width // 8 - 1):
            block = np.concatenate([cells[y, x], cells[y, x + 1], cells[y + 1, x], cells[y + 1, x + 1]])
            blocks.append(np.minimum(block / np.sqrt(block @ block + 256**2), 0.2))
    return np.concatenate(blocks) / np.linalg.norm(blocks)


def test_hog_of_the_published_window_has_3780_values():
    assert hog(np.zeros((1, 128, 64, 3), np.uint8)).shape == (1, 3780)


def test_hog_ignores_brightness_and_contrast():
    dark = np.random.default_rng(4).integers(0, 100, (1, 64, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(hog(dark), hog(dark * 2 + 10), atol=1e-3)


def test_handcrafted_rows_have_unit_length_and_do_not_depend_on_their_neighbors():
    features = handcrafted(REAL[:9])
    assert features.shape == (9, 1024 + 3780)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(handcrafted(REAL[4:5])[0], features[4], atol=1e-6)
    assert handcrafted(REAL[:0]).shape == (0, 4804)


def points(count: int, seed: int, shift: float = 0.0, width: int = 6) -> np.ndarray:
    return (np.random.default_rng(seed).normal(shift, 1, (count, width))).astype(np.float32)


def test_nearest_distances_are_those_of_sorting():
    near, far = points(30, 1), points(2500, 2)
    expected = np.sort(pairwise_distances(near, far), axis=1)
    np.testing.assert_allclose(nearest_distances(near, far, k=3), expected[:, 2], rtol=1e-4)
    among = np.sort(pairwise_distances(far), axis=1)
    np.testing.assert_allclose(nearest_distances(far, k=2), among[:, 2], rtol=1e-4)
    assert np.isinf(nearest_distances(near[:3], k=3)).all()


def test_kernel_distance_is_that_of_torchmetrics():
    real, fake = points(40, 1), points(25, 2, 0.3)[:, :6]
    expected = poly_mmd(torch.from_numpy(real[:25]).double(), torch.from_numpy(fake).double())
    assert kernel_distance(real[:25], fake) == pytest.approx(expected.item(), rel=1e-4)


def test_kernel_distance_of_unequal_numbers_is_that_of_a_loop():
    real, fake = points(7, 1), points(5, 2)

    def mean_kernel(left, right, same):
        pairs = [(a, b) for i, a in enumerate(left) for j, b in enumerate(right) if not (same and i == j)]
        return np.mean([(np.dot(a, b) / 6 + 1) ** 3 for a, b in pairs])

    expected = mean_kernel(real, real, True) + mean_kernel(fake, fake, True) - 2 * mean_kernel(real, fake, False)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 1.0, 6.0])
def test_neighborhood_measures_are_those_of_loops(shift):
    real, fake, k = points(60, 1), points(40, 2, shift), 4
    radius_real = [sorted(np.linalg.norm(real - x, axis=1))[k] for x in real]
    radius_fake = [sorted(np.linalg.norm(fake - x, axis=1))[k] for x in fake]
    apart = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    inside_real = apart <= np.array(radius_real)[:, None]
    inside_fake = apart <= np.array(radius_fake)[None]
    found = Neighborhoods(real, fake, k)
    assert found.coverage() == pytest.approx(inside_real.any(axis=1).mean())
    assert found.recall() == pytest.approx(inside_fake.any(axis=1).mean())
    assert found.precision() == pytest.approx(inside_real.any(axis=0).mean())
    assert found.density() == pytest.approx(inside_real.sum() / (k * len(fake)))


def test_coverage_of_one_distribution_has_the_published_expectation():
    """Naeem et al., Lemma 2: 1 - (N-1)...(N-k) / (M+N-1)...(M+N-k), whatever the distribution."""
    size, k = 50, NEIGHBORS
    expected = 1 - np.prod([(size - i) / (2 * size - i) for i in range(1, k + 1)])
    values = [Neighborhoods(points(size, seed), points(size, 1000 + seed)).coverage() for seed in range(60)]
    assert np.mean(values) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("counts", [(50, 40), (5, 40), (5, 4)])
def test_frechet_distance_is_that_of_matrix_roots(counts):
    real, fake = points(counts[0], 1, width=8), points(counts[1], 2, 0.5, width=8) * 2
    covariances = [np.cov(each.T.astype(np.float64)) for each in (real, fake)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1] + 1e-12 * np.eye(8)).real
    means = real.mean(axis=0) - fake.mean(axis=0)
    expected = means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-3)


def test_same_picture_is_what_real_images_never_are():
    """Real images far apart, whose near-copies are told from them by a distance that no two reals keep."""
    real = points(200, 1)
    distance = same_picture_distance(real)
    assert np.mean(nearest_distances(real) < distance) <= 0.01
    shifted = real + 0.1 * distance
    assert copy_fraction(real, shifted, distance) == 1
    assert copy_fraction(real, real + 100, distance) == 0
    fake = np.concatenate([real[:50], shifted[:25]])
    assert Neighborhoods(real, fake).duplicates() == pytest.approx(50 / 75)


def test_kin_among_real_images_lowers_the_distance():
    """Half of the real images are frames of one walk: their distance must not pass for that of copies."""
    alone = points(100, 1)
    walks = np.concatenate([alone, alone + points(100, 2) * 0.05])
    assert same_picture_distance(walks) < 0.25 * same_picture_distance(alone)
    assert np.mean(nearest_distances(walks) < same_picture_distance(walks)) <= 0.01


def test_consistency_is_that_of_a_nearest_centroid_classifier():
    real, clusters = points(90, 1), np.arange(90) % 3
    real[clusters == 1] += 2
    centroids = np.stack([real[clusters == cluster].mean(axis=0) for cluster in range(3)])
    fake, own = points(50, 2, 1.0), np.arange(50) % 3
    expected = NearestCentroid().fit(real, clusters).score(fake, own)
    assert cluster_consistency(fake, own, centroids) == pytest.approx(expected)


def test_too_few_images_have_no_measure_and_no_alarm():
    found = assess(points(2 * NEIGHBORS, 1), points(50, 2), NAMES, seed=1)
    assert {value.value for value in found.values()} == {None}
    assert find_alarms(found, LIMITS) == []


def test_assessment_is_repeatable_and_draws_from_its_seed():
    real, fake = points(80, 1), points(60, 2, 0.2)
    assert assess(real, fake, NAMES, seed=1) == assess(real, fake, NAMES, seed=1)
    assert assess(real, fake, ["recall"], seed=1) != assess(real, fake, ["recall"], seed=2)


def test_rows_of_zeros_stay():
    rows = np.array([[0, 0], [3, 4]], np.float32)
    np.testing.assert_array_equal(unit_rows(rows), np.array([[0, 0], [0.6, 0.8]], np.float32))


def test_frechet_distance_is_for_two_thousand_images_and_more():
    real = points(4200, 1)
    few = assess(real, points(1999, 2), ["frechet"], seed=1)["frechet"]
    assert few.value is None
    found = assess(real, points(2100, 2, 0.5), ["frechet"], seed=1)["frechet"]
    assert found.reference < 0.01 < 0.05 < found.value
    assert assess(real[:3999], points(2100, 2), ["frechet"], seed=1)["frechet"].value is None, (
        "half are held out for the reference"
    )


def frames_of_few_people(seed: int, people: int = 6, frames: int = 8) -> np.ndarray:
    """An embedding of identities: each person's images close together, some of them nearly the same."""
    stream = np.random.default_rng(seed)
    spread = stream.uniform(0.02, 0.3, (people, 1, 1))
    rows = stream.normal(size=(people, 1, 64)) + spread * stream.normal(size=(people, frames, 64))
    return rows.reshape(-1, 64).astype(np.float32)


def test_real_images_of_a_small_cluster_are_no_copies_of_each_other():
    """Halves of real images against each other: with the limit alone many a small cluster would sound an alarm."""
    sounding, by_the_limit_alone, tried = 0, 0, 60
    for seed in range(tried):
        real = frames_of_few_people(seed)
        order = np.random.default_rng(seed).permutation(len(real))
        found = assess(real[order[::2]], real[order[1::2]], ["copies", "duplicates"], seed=1)
        sounding += bool(find_alarms(found, LIMITS))
        by_the_limit_alone += (
            found["copies"].value > LIMITS["copies"] or found["duplicates"].value > LIMITS["duplicates"]
        )
    assert by_the_limit_alone > 0.15 * tried
    assert sounding < 0.1 * tried


def test_copies_in_a_small_cluster_still_sound_the_alarm():
    for seed in range(10):
        real = frames_of_few_people(seed)
        copied = real[:24] + np.random.default_rng(seed).normal(0, 1e-3, (24, 64)).astype(np.float32)
        found = assess(real, copied, ["copies", "duplicates"], seed=1)
        assert "memorization" in alarms(found)


def test_a_limit_gives_way_to_what_real_images_reach_themselves():
    found = {name: Measured(0.4, None, 0.3, 0.1) for name in ("coverage", "copies")}
    assert find_alarms(found, {"coverage": 0.5, "copies": 0.2}) == []
    found["copies"] = Measured(0.6, None, 0.3, 0.1)
    assert [(alarm.measure, alarm.limit) for alarm in find_alarms(found, {"copies": 0.2})] == [("copies", 0.5)]
    found["coverage"] = Measured(0.05, None, 0.3, 0.1)
    assert [(alarm.measure, alarm.limit) for alarm in find_alarms(found, {"coverage": 0.5})] == [("coverage", 0.1)]
    assert [alarm.limit for alarm in find_alarms(found, {"coverage": 0.09})] == [0.09]
    found = {"copies": Measured(1.0, None, 0.8, 0.4), "coverage": Measured(0.0, None, 0.2, 0.4)}
    sounding = [(alarm.measure, alarm.limit) for alarm in find_alarms(found, LIMITS)]
    assert sounding == [("coverage", 0.05), ("copies", 0.9)], "nothing silences an alarm altogether"


def test_alarms_have_the_limits_that_are_given():
    found = {name: Measured(0.4, None, None, None) for name in ("coverage", "duplicates", "copies", "precision")}
    assert alarms(found) == {"collapse", "memorization", "unlike"}
    assert find_alarms(found, {"coverage": 0.4, "precision": 0.3}) == []
    assert [(alarm.alarm, alarm.limit) for alarm in find_alarms(found, {"precision": 0.45})] == [("unlike", 0.45)]
    assert find_alarms({}, LIMITS) == []


def naive_alarms(found, limits) -> list[tuple[str, str]]:
    """The rules of docs/generators.md, one after the other."""
    sounding = []
    value, reference, deviation = ({name: getattr(one, key) for name, one in found.items()} for key in (
        "value", "reference", "reference_deviation"
    ))  # fmt: skip
    low, high = {}, {}
    for name in SIMPLE:
        low[name] = min(limits[name], max(reference[name] - 2 * deviation[name], 0.05))
        high[name] = max(limits[name], min(reference[name] + 2 * deviation[name], 0.9))
    if value["coverage"] < low["coverage"]:
        sounding.append(("collapse", "coverage"))
    if value["duplicates"] > high["duplicates"]:
        sounding.append(("collapse", "duplicates"))
    if value["copies"] > high["copies"]:
        sounding.append(("memorization", "copies"))
    if value["precision"] < low["precision"]:
        sounding.append(("unlike", "precision"))
    if value["recall"] < low["recall"]:
        sounding.append(("narrow", "recall"))
        if value["density"] > limits["density"]:
            sounding.append(("unlike", "density"))
    if deviation["kernel"] > 0 and (value["kernel"] - reference["kernel"]) / deviation["kernel"] > 20:
        sounding.append(("unlike", "kernel"))
    return sounding


def test_every_alarm_follows_its_rule():
    stream, counted = np.random.default_rng(1), dict.fromkeys([*SIMPLE, "kernel", "density"], 0)
    for _ in range(2000):
        found = {name: Measured(*np.round(stream.uniform(0, [1, 0.1, 1, 0.1]), 4).tolist()) for name in SIMPLE}
        found["kernel"] = Measured(*np.round(stream.uniform(0, [1, 0.1, 0.1, 0.05]), 4).tolist())
        found["density"] = Measured(*np.round(stream.uniform(0, [4, 0.1, 1, 0.1]), 4).tolist())
        sounding = [(alarm.alarm, alarm.measure) for alarm in find_alarms(found, LIMITS)]
        assert sorted(sounding) == sorted(naive_alarms(found, LIMITS))
        for _, measure in sounding:
            counted[measure] += 1
    assert min(counted.values()) > 20, "each rule is tried on both sides"


def test_the_limit_of_the_kernel_distance_counts_deviations():
    def limit(*measure):
        return [alarm.limit for alarm in find_alarms({"kernel": Measured(*measure)}, {"kernel_deviations": 3.0})]

    assert limit(0.5, 0.1, 0.1, 0.1) == [0.4]
    assert limit(0.39, 0.1, 0.1, 0.1) == []
    assert limit(0.5, 0.1, 0.0, 0.0) == [], "without a deviation there is no limit"
    assert limit(None, None, None, None) == []
    assert find_alarms({"kernel": Measured(0.5, 0.1, 0.1, 0.1)}, SIMPLE) == []


def test_dense_images_that_reach_the_real_ones_are_not_unlike():
    found = {"density": Measured(3.0, 0.1, 1.0, 0.1), "recall": Measured(0.5, 0.1, 0.9, 0.1)}
    assert find_alarms(found, LIMITS) == []
    assert alarms({"density": found["density"]}) == set(), "recall was not measured"


def test_the_kernel_distance_is_the_mean_over_blocks_and_its_deviation_does_not_shrink():
    real, fake = unit_rows(points(500, 1)), unit_rows(points(250, 2, 0.5))
    found = assess(real, fake, ["kernel"], seed=3, subsets=2)["kernel"]
    values, references = [], []
    stream = np.random.default_rng(3)
    for _ in range(2):
        order, drawn = stream.permutation(500), stream.permutation(250)
        for start in (0, 125):  # two blocks of at least 100
            rows = slice(start, start + 125)
            left, right, held_out = real[order[:250][rows]], fake[drawn[rows]], real[order[250:][rows]]
            scale = np.sqrt(6)  # the cosine in place of x.y / D
            values.append(kernel_distance(left * scale, right * scale))
            references.append(kernel_distance(left * scale, held_out * scale))
    assert found.value == pytest.approx(np.mean(values), abs=1e-5)
    assert found.reference == pytest.approx(np.mean(references), abs=1e-5)
    assert found.reference_deviation == pytest.approx(np.std(references, ddof=1), abs=1e-5)
    few, many = (assess(points(count, 1), points(count, 2), ["kernel"], seed=1)["kernel"] for count in (300, 2000))
    assert many.reference_deviation > 0.4 * few.reference_deviation
