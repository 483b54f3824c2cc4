"The notebooks that train most run, and are clean: those of studies and ensembles, tutorials, the index."
from notebooks import check_clean, check_runs, each_long, runner

@each_long
def test_notebook_runs(nb, runner): check_runs(nb, runner)

@each_long
def test_notebook_is_clean(nb): check_clean(nb)
