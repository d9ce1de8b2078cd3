"""What the tests share: a small job on the built-in model and data."""

import pytest

SMALL = {"train.rounds": 3, "data.labels": 5, "clients.count": 4, "train.lr_a": 2e-3}


@pytest.fixture
def small():
    """Overrides that make the quickstart a matter of seconds."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Two sites with data of their own and a server with none but the labels and a test split."""
    import json

    root = tmp_path_factory.mktemp("sites")
    labels = ["card lost", "transfer late", "rate wrong"]
    words = [["card", "stolen", "wallet"], ["transfer", "pending", "days"], ["rate", "exchange", "foreign"]]

    def rows(count, skip):
        for i in range(count):
            label = (i * (1 + skip)) % 3
            yield {"text": f"my {words[label][i % 3]} case number {i + skip}", "label": label}

    for name, splits in {"a": ["train", "test"], "b": ["train"], "server": ["test"]}.items():
        folder = root / name
        folder.mkdir()
        (folder / "labels.json").write_text(json.dumps(labels))
        for split in splits:
            lines = "".join(json.dumps(row) + "\n" for row in rows(40, len(name)))
            (folder / f"{split}.jsonl").write_text(lines)
    return root
