"""Every source reads its data's published form, and says what is wrong with anything else."""

import io
import json
import shutil
from pathlib import Path

import pyarrow
import pytest
import sparsemm.conf
import yaml
from huggingface_hub import constants
from PIL import Image
from pyarrow import parquet

from sparsemm.config import build, check_target
from sparsemm.heads.data.base import Region
from sparsemm.heads.data.coco import Coco
from sparsemm.heads.data.folder import Folder
from sparsemm.heads.data.synthdog import SynthDog
from sparsemm.heads.data.synthetic import Synthetic

CONF = Path(sparsemm.conf.__path__[0]) / "data"
ASKED = {"question": "Read.", "max_new_tokens": 9}
PICTURE = Image.linear_gradient("L").resize((40, 30))


def png() -> dict:
    stream = io.BytesIO()
    PICTURE.save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_source_of_conf_builds(name, tmp_path):
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    node = {**node, **({"data": str(tmp_path)} if node.get("data") == "???" else {})}
    check_target("data", node)
    assert node["_target_"].startswith(f"sparsemm.heads.data.{name}.")
    assert build(node).question == node["question"]


def test_synthetic_pages_have_a_region_for_every_word():
    source = build(yaml.safe_load((CONF / "synthetic.yaml").read_text()))
    sample = source.sample(7)
    assert len(source) == 1000 and sample.id == "document-000007" and len(sample.regions) == 24
    assert sample.image().size == (256, 256)
    assert all(0 <= box[0] < box[2] <= 256 for box in (region.box for region in sample.regions))


def test_the_data_is_named_by_all_that_changes_a_page():
    pages = [{"kind": "words"}, {"kind": "document"}, {"kind": "words", "width": 512}]
    pages += [{"kind": "words", "font_size": [9, 20]}, {"kind": "words", "entries": [3, 4]}]
    names = [Synthetic(**ASKED, limit=1, page=page).data_id() for page in pages]
    assert len(set(names)) == len(names)
    assert names[0] == Synthetic(**ASKED, limit=7, page={"kind": "words", "font_size": [18, 20]}).data_id()


def test_a_page_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"heads.page: width=50: must be a positive multiple"):
        Synthetic(**ASKED, limit=1, page={"kind": "words", "width": 50})
    with pytest.raises(ValueError, match=r"heads.max_new_tokens=0: must be at least 1"):
        Synthetic(question="", max_new_tokens=0, limit=1, page={"kind": "words"})


@pytest.fixture
def folder(tmp_path):
    """A folder with one image and its labels, changed as told."""
    PICTURE.save(tmp_path / "a.png")

    def write(labels=None, text=None) -> Folder:
        entries = labels or [{"image": "a.png", "regions": [{"text": "EXIT", "box": [1, 2, 30, 20.5]}]}]
        (tmp_path / "labels.json").write_text(text or json.dumps(entries))
        return Folder(**ASKED, data=str(tmp_path), labels="labels.json")

    return write


def test_a_folder_of_images_and_labels_is_read(folder):
    source = folder()
    sample = source.sample(0)
    assert len(source) == 1 and sample.id == "a.png" and sample.image().size == (40, 30)
    assert sample.regions == (Region("EXIT", (1, 2, 30, 20.5)),)
    assert source.data_id() == folder().data_id()
    assert source.data_id() != folder([{"image": "a.png", "regions": []}]).data_id()


@pytest.mark.parametrize(
    "entry",
    [
        {"regions": []},
        {"image": "a.png"},
        {"image": "a.png", "regions": [{"text": "x"}]},
        {"image": "a.png", "regions": [{"text": "x", "box": [1, 2, 3]}]},
        {"image": "a.png", "regions": [{"text": "x", "box": [1, 2, 3, "y"]}]},
        {"image": "a.png", "regions": ["x"]},
    ],
)
def test_an_entry_without_what_it_needs_is_named(folder, entry):
    with pytest.raises(ValueError, match=r"heads.labels=labels.json: entry 0 needs image and regions"):
        folder([entry]).sample(0)


def test_a_folder_that_cannot_be_read_says_why(folder, tmp_path):
    with pytest.raises(ValueError, match=r"not valid JSON"):
        len(folder(text="["))
    with pytest.raises(ValueError, match=r"expected a list of"):
        len(folder(text='{"a": 1}'))
    with pytest.raises(ValueError, match=r"the image of sample b.png, .*b.png: .*No such file"):
        folder([{"image": "b.png", "regions": []}]).sample(0).image()
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"the image of sample a.png, .*cannot identify"):
        folder().sample(0).image()
    with pytest.raises(ValueError, match=r"heads.labels=none.json: no such file in"):
        len(Folder(**ASKED, data=str(tmp_path), labels="none.json"))
    with pytest.raises(ValueError, match=r"heads.data=/nowhere: no such folder"):
        len(Folder(**ASKED, data="/nowhere", labels="labels.json"))


@pytest.fixture
def synthdog(tmp_path):
    """The dataset's columns, two files, row groups of two."""
    coord = pyarrow.list_(pyarrow.list_(pyarrow.float64()))
    chunks = pyarrow.list_(pyarrow.struct([("chunk", pyarrow.string()), ("coord", coord)]))
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("ground_truth", pyarrow.string()), ("2_coord", chunks)])
    (tmp_path / "data").mkdir()
    for part in range(2):
        rows = [
            {
                "image": png(),
                "ground_truth": "{}",
                "2_coord": [{"chunk": f"line {part} {row}", "coord": [[1.0, 2.0], [30.0, 9.0]]}],
            }
            for row in range(3)
        ]
        table = pyarrow.Table.from_pylist(rows, schema=schema)
        parquet.write_table(table, tmp_path / "data" / f"train-0000{part}-of-00002.parquet", row_group_size=2)
    return SynthDog(**ASKED, data=str(tmp_path), files="data/train-*.parquet")


def test_synthdog_is_read_in_its_own_columns(synthdog):
    assert len(synthdog) == 6
    for index, text in ((0, "line 0 0"), (2, "line 0 2"), (3, "line 1 0"), (5, "line 1 2")):
        sample = synthdog.sample(index)
        assert sample.id == f"00000{index}" and sample.image().size == (40, 30)
        assert sample.regions == (Region(text, (1, 2, 30, 9)),)
    assert synthdog.data_id().startswith("synthdog/") and synthdog.needs() == ()


def test_tables_that_cannot_be_read_say_why(synthdog, tmp_path):
    file = tmp_path / "data" / "train-00000-of-00002.parquet"
    parquet.write_table(pyarrow.table({"image": [1], "text": ["x"]}), file)
    again = SynthDog(**ASKED, data=str(tmp_path), files="data/train-*.parquet")
    with pytest.raises(ValueError, match=r"train-00000.* has no column 2_coord. It has: image, text"):
        len(again)
    file.write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=r"train-00000.* cannot be read .* Fetch it again"):
        len(SynthDog(**ASKED, data=str(tmp_path), files="data/train-*.parquet"))
    with pytest.raises(ValueError, match=r"no file data/test-\*.parquet there"):
        len(SynthDog(**ASKED, data=str(tmp_path), files="data/test-*.parquet"))


def test_a_dataset_that_is_not_here_is_a_need():
    source = SynthDog(**ASKED, data="nobody/no-such-dataset", files="data/train-*.parquet")
    (need,) = source.needs()
    assert need.kind == "data" and "hf download --repo-type dataset nobody/no-such-dataset" in need.how
    with pytest.raises(ValueError, match=r"heads.data=nobody/no-such-dataset: it is not on this machine"):
        len(source)


def test_a_dataset_in_the_hubs_cache_is_read_there(synthdog, tmp_path, monkeypatch):
    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub" / "datasets--some--pages"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    shutil.copytree(tmp_path / "data", cache / "snapshots" / commit / "data")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = SynthDog(**ASKED, data="some/pages", files="data/train-*.parquet")
    assert source.needs() == () and len(source) == 6
    assert source.data_id() == synthdog.data_id()


def coco_objects() -> tuple[list, list]:
    categories = [{"id": 18, "name": "dog"}, {"id": 10, "name": "traffic light"}, {"id": 1, "name": "person"}]
    annotations = [
        {"image_id": 139, "category_id": 18, "bbox": [1, 2, 10, 20]},
        {"image_id": 139, "category_id": 10, "bbox": [5, 6, 7, 8]},
        {"image_id": 285, "category_id": 18, "bbox": [1, 2, 3, 4]},
        {"image_id": 285, "category_id": 18, "bbox": [9, 9, 3, 4]},
        {"image_id": 285, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    return categories, annotations


@pytest.fixture
def coco(tmp_path) -> Path:
    """A folder of COCO's own files."""
    categories, annotations = coco_objects()
    images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (285, 139)]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    content = {"images": images, "categories": categories, "annotations": annotations}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    for image in images:
        PICTURE.save(tmp_path / "val2017" / image["file_name"])
    return tmp_path


def test_cocos_own_files_are_read(coco):
    source = Coco(**ASKED, data=str(coco), split="val")
    first, second = source.sample(0), source.sample(1)
    assert len(source) == 2 and (first.id, second.id) == ("139", "285") and source.whole
    assert first.regions == (Region("dog", (1, 2, 11, 22)), Region("traffic light", (5, 6, 12, 14)))
    assert second.regions == ()  # two dogs, and a crowd
    assert first.image().size == (40, 30)
    assert source.data_id().startswith("coco/val/")


@pytest.mark.parametrize("where", ["metadata", "file"])
def test_cocos_tables_are_read(tmp_path, where):
    objects = {
        "bbox_id": [1, 2],
        "category": [16, 9],
        "bbox": [[1.0, 2.0, 11.0, 22.0], [5.0, 6.0, 12.0, 14.0]],
    }
    table = pyarrow.Table.from_pylist([{"image_id": 139, "image": png(), "objects": objects}])
    names = [f"thing {index}" for index in range(16)] + ["dog"]
    features = {"objects": {"feature": {"category": {"names": names, "_type": "ClassLabel"}}}}
    if where == "metadata":
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    else:
        (tmp_path / "dataset_infos.json").write_text(json.dumps({"coco": {"features": features}}))
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data" / "val-00000-of-00001.parquet")
    sample = Coco(**ASKED, data=str(tmp_path), split="val").sample(0)
    assert sample.id == "139" and sample.image().size == (40, 30)
    assert sample.regions == (Region("dog", (1, 2, 11, 22)), Region("thing 9", (5, 6, 12, 14)))


def test_coco_that_cannot_be_read_says_why(coco, tmp_path):
    file = coco / "annotations" / "instances_val2017.json"
    file.write_text('{"images": []}')
    with pytest.raises(
        ValueError, match=r"instances_val2017.json is not a file of COCO's object annotations"
    ):
        len(Coco(**ASKED, data=str(coco), split="val"))
    with pytest.raises(ValueError, match=r"heads.split=test: must be val or train"):
        Coco(**ASKED, data=str(coco), split="test")
    with pytest.raises(ValueError, match=r"no file data/train-\*.parquet there"):
        len(Coco(**ASKED, data=str(coco), split="train"))
    table = pyarrow.Table.from_pylist(
        [{"image_id": 1, "image": png(), "objects": {"category": [0], "bbox": [[0.0, 0.0, 1.0, 1.0]]}}]
    )
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data" / "train-0.parquet")
    with pytest.raises(
        ValueError, match=r"neither its tables nor a dataset_infos.json say what the categories"
    ):
        Coco(**ASKED, data=str(tmp_path), split="train").sample(0)
