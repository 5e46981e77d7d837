"""People in postures, what they wear, and the pictures and labels of scenes with them."""

from __future__ import annotations

import numpy as np
import pytest

from dfmamba.synth.mesh import CLOTH, LEFT, OTHER, RIGHT, SKIN
from dfmamba.synth.people import MAX_HANDS, SHOTS, PeoplePicture, dress, render_people
from dfmamba.synth.person import (
    PAIRED,
    POSTURES,
    BodyModel,
    Person,
    Places,
    Reach,
    draw_person,
    draw_reach,
    fitting_hand,
    solve_arm,
)

pytest.importorskip("warp")
MODEL = BodyModel.load()


def person(seed: int, posture: str) -> Person:
    return draw_person(np.random.default_rng(seed), np.random.default_rng([seed, 1]), 0, {posture: 1.0})


@pytest.fixture(scope="module")
def pictures() -> list[PeoplePicture]:
    return [render_people(9, index, 48, 1) for index in range(26)]


@pytest.mark.parametrize("posture", [*POSTURES, *PAIRED, "behind", "pocket"])
def test_hands_sit_at_the_ends_of_the_arms(posture: str) -> None:
    one = person(3, posture)
    for actor, side in zip(one.actors, "RL", strict=True):
        elbow, wrist = (one.body.bones[MODEL.bone(f"{name}.{side}")] for name in ("lowerarm", "wrist"))
        assert actor.side == (RIGHT if side == "R" else LEFT)
        assert np.linalg.norm(actor.joints[0] - wrist) < 40.0
        forearm = (wrist - elbow) / np.linalg.norm(wrist - elbow)
        assert -actor.forearm_direction @ forearm > 0.95
        # The forearm's mesh ends at the elbow of the body.
        reach = (actor.parts[0].vertices[actor.parts[0].faces].reshape(-1, 3) - elbow) @ forearm
        assert -60.0 < reach.min() < 20.0


def test_postures_are_what_they_are_called() -> None:
    hanging, raised, crossed = (person(8, name) for name in ("hang", "up", "crossed"))
    at = {name: hanging.body.bones[MODEL.bone(name)] for name in ("upperarm.R", "pelvis")}
    assert hanging.actors[0].joints[0, 1] > at["upperarm.R"][1] + 250.0
    eyes = raised.body.bones[MODEL.bone("eye.R")]
    assert all(actor.joints[9, 1] < eyes[1] for actor in raised.actors)
    right, left = (actor.joints[0] for actor in crossed.actors)
    assert right[0] > left[0], "each wrist lies on the other side"
    behind = person(8, "behind")
    assert all(actor.joints[0, 2] > behind.body.bones[MODEL.bone("pelvis")][2] for actor in behind.actors)


@pytest.mark.parametrize("seed", range(6))
def test_palms_face_where_the_posture_wants_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rest = np.array([[-162.0, -420.0, -17.0], [-329.0, -230.0, -21.0], [-446.0, -115.0, -179.0]])
    hand = fitting_hand(np.zeros(24), float(np.linalg.norm(rest[2] - rest[1])))
    chest, head, hip = np.array([[0.0, -300.0, 0.0], [0.0, -640.0, -40.0], [-100.0, 0.0, 0.0]])
    at = Places(rest[0], chest, head, hip, np.zeros(3), 450.0, 1.0)
    target = rest[0] + np.array([-120.0, -60.0, -180.0])
    ahead = np.array([0.0, 0.0, -1.0])
    reach = Reach(target, ahead, ("flat",))
    arm = solve_arm(rng, rng, at, reach, rest, np.eye(3), hand, 120.0, 0, False, False)
    joints = arm.actor.joints
    palm = np.cross(joints[5] - joints[0], joints[17] - joints[0])
    assert palm @ ahead > 0.3 * np.linalg.norm(palm)


def test_hand_size_follows_the_body() -> None:
    for seed in range(6):
        one = person(seed, "gesture")
        forearm = np.linalg.norm(
            one.shape.bones[MODEL.bone("wrist.R")] - one.shape.bones[MODEL.bone("lowerarm.R")]
        )
        assert 0.25 < one.actors[0].scale / (forearm / 100.0) < 0.6


def test_a_hand_in_a_pocket_leaves_the_picture_its_forearm_only() -> None:
    one = person(2, "pocket")
    assert one.hidden == (True, True)
    for actor in one.actors:
        mesh = actor.parts[0]
        assert len(mesh.faces) > 0
        assert mesh.rest[mesh.faces, 1].mean(axis=1).max() < 15.0


def test_unknown_postures_are_refused() -> None:
    zero = np.zeros(3)
    at = Places(zero, zero, zero, zero, zero, 450.0, 1.0)
    with pytest.raises(ValueError, match="expected one of"):
        draw_reach(np.random.default_rng(0), "handstand", at)


@pytest.mark.parametrize("seed", range(4))
def test_everybody_is_dressed_and_one_person_has_one_skin(seed: int) -> None:
    one = person(seed, "show")
    worn = dress(np.random.default_rng(seed), one)
    skins = [(part, look) for part, look in worn if part.material == SKIN]
    hands = [look for part, look in skins if part.instance != OTHER]
    body = max(skins, key=lambda pair: len(pair[0].vertices) * (pair[0].instance == OTHER))
    assert len(hands) == 2
    assert all(np.array_equal(look.colours[0], body[1].colours[0]) for look in hands)
    cloth = sum(len(part.faces) for part, _ in worn if part.material == CLOTH)
    assert cloth > 1500
    for part, _ in worn:
        assert part.faces.max() == len(part.vertices) - 1
        assert part.faces.min() == 0
        assert len(part.vertices) == len(part.rest) == len(part.attributes)
        assert np.isfinite(part.vertices).all()
    # Nobody is bare between the chest and the hips.
    mesh = body[0]
    level = mesh.rest[mesh.faces].mean(axis=1)
    belly = (np.abs(level[:, 1] + 100.0) < 40.0) & (np.abs(level[:, 0]) < 100.0)
    assert not belly.any()


def test_the_wearer_of_the_camera_has_no_head_in_the_picture() -> None:
    one = person(4, "desk")
    whole, headless = (dress(np.random.default_rng(0), one, headless) for headless in (False, True))
    top = [min(part.vertices[:, 1].min() for part, _ in worn) for worn in (whole, headless)]
    assert top[1] > one.body.bones[MODEL.bone("eye.R")][1] > top[0]


def test_cloth_ends_where_it_is_cut() -> None:
    # Short sleeves end in a ring: their lowest points lie at one place along the upper arm.
    one = next(one for one in (person(seed, "hang") for seed in range(20)) if not one.long_sleeves)
    start, end = (one.shape.bones[MODEL.bone(f"{name}.R")] for name in ("upperarm", "lowerarm"))
    rims = []
    for looks in range(6):
        shirt = dress(np.random.default_rng(looks), one)[0][0]
        along = (shirt.rest - start) @ (end - start) / ((end - start) @ (end - start))
        sleeve = np.sort(along[(shirt.rest[:, 0] < start[0] - 30.0) & (along > 0.15)])
        if len(sleeve) > 12:
            rims.append(sleeve[-12:])
    assert len(rims) > 2
    assert all(np.ptp(rim) < 0.06 for rim in rims)


def test_the_same_numbers_give_the_same_picture() -> None:
    first, again, other = render_people(7, 3, 48), render_people(7, 3, 48), render_people(7, 4, 48)
    assert np.array_equal(first.rgba, again.rgba)
    assert np.array_equal(first.joints_px, again.joints_px)
    assert np.array_equal(first.visible, again.visible)
    assert first.shot == again.shot
    assert not np.array_equal(first.rgba, other.rgba)


def test_size_only_scales_the_picture() -> None:
    small, large = render_people(7, 3, 48, 1), render_people(7, 3, 96, 1)
    assert np.allclose(large.joints_px, 2.0 * small.joints_px + 0.5, atol=0.05)


def test_pictures_and_labels_are_of_one_kind(pictures: list[PeoplePicture]) -> None:
    shots = {made.shot for made in pictures}
    assert len(shots) >= 5
    assert shots <= set(SHOTS)
    assert np.isclose(sum(SHOTS.values()), 1.0)
    for made in pictures:
        assert made.rgb.shape == (48, 48, 3)
        assert made.alpha.shape == (48, 48)
        assert made.rgb.dtype == made.alpha.dtype == np.uint8
        count = len(made.side)
        assert made.joints_px.shape == (count, 21, 2)
        assert made.visible.shape == (count,)
        assert count <= MAX_HANDS
        assert set(made.side.tolist()) <= {RIGHT, LEFT}
        assert made.visible.min(initial=0.0) >= 0.0
        assert made.visible.max(initial=0.0) <= 1.0
        assert not made.rgb[made.alpha == 0].any()
        assert made.alpha.max() == 255
        assert np.isfinite(made.joints_px).all()


def test_seen_hands_are_on_people_and_of_all_sizes(pictures: list[PeoplePicture]) -> None:
    sides = []
    for made in pictures:
        for joints, seen in zip(made.joints_px, made.visible, strict=True):
            inside = ((joints >= -0.5) & (joints < 47.5)).all(axis=1)
            assert seen <= inside.mean() + 1e-6
            if seen == 1.0:
                column, row = np.round(joints).astype(int).T
                near = [made.alpha[np.clip(row + dy, 0, 47), np.clip(column + dx, 0, 47)]
                        for dx in (-1, 0, 1) for dy in (-1, 0, 1)]  # fmt: skip
                assert (np.max(near, axis=0) > 0).all()
                sides.append(float(np.ptp(joints, axis=0).max()) / 48.0)
    assert len(sides) > 15
    assert max(sides) <= 0.61
    assert max(sides) > 0.25
    assert min(sides) < 0.12


def test_some_scenes_show_people_without_hands(pictures: list[PeoplePicture]) -> None:
    without = [made for made in pictures if made.shot == "none"]
    with_hands = [made for made in pictures if made.shot not in ("none", "face")]
    assert without
    assert all(made.visible.max(initial=0.0) < 0.6 for made in without)
    assert np.mean([made.visible.max(initial=0.0) > 0.6 for made in with_hands]) > 0.7


def test_joints_behind_the_camera_lie_outside_on_their_own_side() -> None:
    made = render_people(1, 697, 48, 1)
    hand = made.joints_px[1]
    inside = ((hand > -0.5) & (hand < 47.5)).all(axis=1)
    assert made.shot == "ego"
    assert 0.3 < inside.mean() < 1.0
    # A hand before the face: the index finger goes past the camera at the upper left, and no further.
    assert (hand[5:9] < 0.0).all()
    assert hand.min() > -480.0


@pytest.mark.parametrize("numbers", [(-1, 0, 64), (0, -1, 64), (0, 0, 8)])
def test_senseless_numbers_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        render_people(*numbers)
