"""Data that are not there, are too few, or are used twice."""

import shutil

from miniature import EXTRA, camvid_tree

from bad_input.world import Cases, Found, World

CASES = case = Cases()


@case
def a_missing_data_root(world: World) -> Found:
    return world.camvid("teacher"), [str(world.folder / "camvid"), "trainannot", "data_root"]


@case
def a_data_root_that_is_a_file(world: World) -> Found:
    (world.folder / "file").touch()
    return world.scenes("teacher", **{"machine.data_root": world.folder / "file"}), [
        str(world.folder / "file"),
        "machine.data_root",
    ]


@case
def no_unlabelled_images(world: World) -> Found:
    return world.scenes("student", **{"data.labelled_fraction": 1.0}), [
        "data.labelled_fraction = 1",
        "smaller",
    ]


@case
def a_single_image(world: World) -> Found:
    return world.scenes("student", **{"data.scenes.images": 1}), [
        "no unlabelled images",
        "data.scenes.images = 1",
        "more",
    ]


@case
def an_epoch_of_one_crop(world: World) -> Found:
    # Batch normalisation cannot train on it.
    return world.scenes("teacher", **{"teacher.data.repeat": 0.2}), [
        "fewer than 2 crops",
        "data.repeat",
    ]


@case
def a_pool_image_that_is_also_evaluated(world: World) -> Found:
    root = camvid_tree(world.folder / "camvid")
    mine, theirs = root / "train" / f"{EXTRA[1]}.png", root / "test" / "Seq05VD_f00030.png"
    shutil.copy(theirs, mine)
    return world.camvid("pseudo_label"), [str(mine), str(theirs), "take them out"]


@case
def no_folder_of_pictures(world: World) -> Found:
    return ["predict", f"--predict.images={world.folder / 'nowhere'}"], [
        "predict.images",
        str(world.folder / "nowhere"),
        "pictures",
    ]


@case
def a_folder_without_pictures(world: World) -> Found:
    (world.folder / "empty").mkdir()
    return ["predict", f"--predict.images={world.folder / 'empty'}"], ["no picture", ".png"]


@case
def pictures_and_masks_in_one_folder(world: World) -> Found:
    world.picture()
    return [*world.predict(), f"--predict.output={world.folder / 'pictures'}"], [
        "predict.output",
        "predict.images",
        "name another",
    ]


@case
def too_few_pictures_to_hold_some_out(world: World) -> Found:
    root = world.own_pictures()
    for number in range(2, 8):
        (root / "images" / f"{number}.png").unlink()
        (root / "labels" / f"{number}.png").unlink()
    return world.pictures("prepare"), [str(root), "2 labelled images", "label more"]


@case
def outputs_that_are_a_file(world: World) -> Found:
    (world.folder / "file").touch()
    return world.scenes("teacher", **{"machine.outputs": world.folder / "file"}), [
        str(world.folder / "file"),
        "machine.outputs",
    ]


@case
def remembered_digests_that_are_a_text(world: World) -> Found:
    cache = world.folder / "outputs" / "cache"
    cache.mkdir(parents=True)
    (cache / "digests.sqlite").write_text("this is no database at all" * 100)
    return world.scenes("teacher"), [str(cache / "digests.sqlite"), "delete it"]
