"The notebooks of the library run, and are clean."
from notebooks import check_clean, check_runs, each_short, runner

@each_short
def test_notebook_runs(nb, runner): check_runs(nb, runner)

@each_short
def test_notebook_is_clean(nb): check_clean(nb)
