"""`tests.train.programs.slow_train` by its short name, for scripts."""

import runpy

if __name__ == "__main__":
  program = "tests.train.programs.slow_train"
  runpy.run_module(program, run_name="__main__", alter_sys=True)
