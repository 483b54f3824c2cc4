"""What the tests of notebooks share. As a script: runs the notebooks whose paths come in, one a line, each in a fork of this process, which
has imported what they need and run nothing.

A process of its own for each would import for eight seconds; one process for all would mix what they define."""
import os, subprocess, sys, time
from pathlib import Path
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if not any(p.startswith(('.', '_')) for p in o.relative_to(ROOT).parts))
LONG = [o for o in NOTEBOOKS if o.parent.name in ('study', 'tutorials', 'ensembling', 'autoencoder', 'nbs')] # a file of tests
each_long = pytest.mark.parametrize('nb', LONG, ids=lambda o: f'{o.parent.name}-{o.stem}')
each_short = pytest.mark.parametrize('nb', [o for o in NOTEBOOKS if o not in LONG], ids=lambda o: f'{o.parent.name}-{o.stem}')

@pytest.fixture(scope='module')
def runner(tmp_path_factory):
    "A process that runs notebooks, and the file where their errors go"
    errors = tmp_path_factory.mktemp('notebooks')/'errors'
    with open(errors, 'w') as f, subprocess.Popen([sys.executable, '-W', 'ignore', __file__], stdin=subprocess.PIPE,
                                                  stdout=subprocess.PIPE, stderr=f, text=True) as process:
        yield process,errors

def check_runs(nb, runner):
    "Top to bottom, as `nbdev-test` runs it, in twenty times what its imports take or less: two minutes, where these take six seconds"
    process,errors = runner
    before = errors.stat().st_size
    print(nb, file=process.stdin, flush=True)
    passed,seconds,imports = process.stdout.readline().split()
    assert passed == 'True', errors.read_text()[before:]
    assert float(seconds) < 20*float(imports)

def check_clean(nb):
    "As `nbdev-clean` leaves it, with the outputs of every cell that has any"
    import nbdev.clean
    from fastcore.nbio import loads, nb2str
    before = nb.read_text(encoding='utf-8')
    cells = loads(before)
    nbdev.clean.clean_nb(cells)
    assert nb2str(cells) == before, f'run nbdev-clean on {nb.name}'
    assert 'site-packages' not in before, f'{nb.name} holds a path of the machine it ran on: run it with PYTHONWARNINGS=ignore'
    assert any(c.get('outputs') for c in cells['cells']), f'{nb.name} has no outputs: run nbdev-test --save on it'

def main():
    start = time.time()
    from nbdev.test import test_nb
    import cnnfast
    cnnfast.digits # imports everything
    imports = time.time()-start # what each notebook would take longer by itself
    for path in sys.stdin:
        if not (pid := os.fork()):
            passed,seconds = test_nb(path.strip())
            print(passed, seconds+imports, imports, flush=True)
            os._exit(0)
        if os.waitpid(pid, 0)[1]: print(False, 0, imports, flush=True) # killed

if __name__ == '__main__': main()
