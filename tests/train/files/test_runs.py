from train.files.runs import runs_in


def test_a_directory_stands_for_itself_or_for_its_replicas(tmp_path):
  folder = str(tmp_path)
  assert runs_in(folder) == [folder]
  assert runs_in(str(tmp_path / "missing")) == [str(tmp_path / "missing")]
  names = [
    "learning_rate=1e-05,seed=0",
    "learning_rate=0.001,seed=2",
    "learning_rate=0.001,seed=10",
    "learning_rate=0.01,seed=1",
  ]
  for name in names[::-1]:
    (tmp_path / name).mkdir()
    (tmp_path / name / "metrics.jsonl").touch()
  (tmp_path / "notes").mkdir()
  assert runs_in(folder) == [str(tmp_path / name) for name in names]
  (tmp_path / "metrics.jsonl").touch()
  assert runs_in(folder) == [folder]
