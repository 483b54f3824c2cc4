"The project keeps its promises: generated modules, README, docs, import times."
import os, shutil, subprocess, sys, time
from pathlib import Path
from conftest import ROOT, cnnfast, cnnfast_here
from notebooks import NOTEBOOKS
from readme import readme

def in_a_copy(tmp_path, command):
    "Run one of nbdev's commands in a copy of the project"
    for o in ('nbs', 'cnnfast'): shutil.copytree(ROOT/o, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__'))
    for o in ('pyproject.toml', 'settings.ini', 'setup.py', 'README.md'): shutil.copy(ROOT/o, tmp_path)
    res = subprocess.run([Path(sys.executable).with_name(command)], capture_output=True, text=True, cwd=tmp_path)
    assert res.returncode == 0, res.stderr
    return res

def test_docs_can_be_built(tmp_path):
    "The pages are processed without an error; Quarto, which renders them, is no Python package"
    res = in_a_copy(tmp_path, 'nbdev-proc-nbs')
    assert 'Error' not in res.stdout+res.stderr, res.stderr
    assert {o.relative_to(tmp_path/'_proc') for o in (tmp_path/'_proc').rglob('*.ipynb')} == {o.relative_to(ROOT/'nbs') for o in NOTEBOOKS}

def test_modules_are_those_of_the_notebooks(tmp_path):
    "Exporting again changes nothing"
    in_a_copy(tmp_path, 'nbdev-export')
    before,after = [{o.relative_to(d):o.read_text(encoding='utf-8') for o in (d/'cnnfast').rglob('*.py')} for d in (ROOT, tmp_path)]
    assert before == after, 'run nbdev-export'

def test_readme_is_the_index():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme(ROOT/'nbs'/'index.ipynb'), 'run python tests/readme.py'

def test_help_is_quick():
    "It answers in a fifth of the time that importing fastai takes, or less"
    times = []
    for command in ([Path(sys.executable).with_name('cnnfast'), '--help'],
                    [sys.executable, '-W', 'ignore', '-c', 'from fastai.vision.all import *']):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter()-start)
    assert times[0] < times[1]/5

def test_import_costs_little_over_fastai():
    "In one interpreter, so that both meet the same machine: fastai alone, then what cnnfast adds"
    code = '''
from time import process_time as now # of the processor: other tests run beside it
start = now(); from fastai.vision.all import *
middle = now(); from cnnfast import *; scratch_learner
print(middle-start, now()-start)
'''
    fastais,ours = map(float, subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
                                             check=True).stdout.split())
    assert ours < 1.1*fastais

def test_star_import_covers_fastai_and_cnnfast():
    code = '''
import fastai.vision.all as f
before = set(vars(f))
from cnnfast import *
import cnnfast
assert {'digits', 'MemoryDL', 'fast_cnn', 'scratch_learner', 'evaluate', 'compare', 'DataBlock', 'Learner'} <= set(globals())
from importlib import import_module
names = {n for m in cnnfast._modules if not m.startswith('cli.') for n in import_module(f'cnnfast.{m}').__all__}
# of fastai's; these are its lowest level, for which Learner.save and load remain
assert names & before == {'save_model', 'load_model'}, names & before
assert cnnfast.models.__name__ == 'cnnfast.models'
'''
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)

def test_import_alone_is_cheap():
    subprocess.run([sys.executable, '-c', 'import cnnfast, sys; assert "torch" not in sys.modules and "fastai" not in sys.modules'],
                   check=True)

def test_version_and_lists():
    import cnnfast as package
    assert package.__version__ in cnnfast('--version').stdout
    assert {'digits', 'cifar10', 'cifar100', 'tiny_imagenet'} <= {o.split()[0] for o in cnnfast_here('datasets').stdout.splitlines()}
    assert 'fast_cnn' in cnnfast_here('models', 'fast_').stdout and 'resnet18' in cnnfast_here('models', 'resnet1*').stdout
