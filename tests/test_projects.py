"Projects from start to deliverable: the embedded sample, several data sets in one comparison, the folder to hand in."
import json, re, subprocess, sys, tarfile
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from conftest import CIFAR, cnnfast_here, fails_with, needs_cifar
from cnnfast.data.dataset import digits
from cnnfast.data.standard_sets import SAMPLE, cifar10_sample
from cnnfast.data.loading import split_targets
from cnnfast.study.comparison import Comparison
from cnnfast.study.recipe import Recipe
from cnnfast.study.pipeline import compare

# The sample

def test_sample_is_even_and_apart():
    data = cifar10_sample()
    assert (data.counts.train == 160).all() and (data.counts.valid == 40).all() and (data.counts.test == 100).all()
    seen = [o.array.tobytes() for o in data.items]
    assert len(seen) == 3000 and len(set(seen)) == 3000
    assert SAMPLE.stat().st_size < 3*2**20

@needs_cifar
def test_sample_is_part_of_cifar10():
    "File for file, train from train and test from test"
    with tarfile.open(SAMPLE) as t: mine = {o.name:t.extractfile(o).read() for o in t}
    with tarfile.open(CIFAR) as t: theirs = {n:t.extractfile(o).read() for o in t if (n := o.name.removeprefix('cifar10/')) in mine}
    assert mine == theirs and sum(o.startswith('train/') for o in mine) == 2000

# Several data sets

@pytest.fixture(scope='module')
def rare():
    data = cifar10_sample().subset(6, per_class=30, splits=('train', 'test'))
    return data.subset(per_class=dict(cat=8, dog=12), splits=('train', 'valid'))

@pytest.fixture(scope='module')
def both(rare, tmp_path_factory):
    out = tmp_path_factory.mktemp('several')/'out'
    return compare({'as it is':rare, 'balanced':rare.balance('oversample', valid=True)}, ['cnn', 'tiny_resnet'], seeds=1, epochs=2, out=out,
                   verbose=False),out

def test_all_are_judged_by_the_same_pictures(both, rare):
    c,out = both
    assert len(c.runs) == 4 and list(c.datas) == ['as it is', 'balanced']
    own = [split_targets(o.learn.dls.valid) for o in c.runs]
    assert len(own[2]) > len(own[0]) == len(rare.splits['valid']) # trained beside a larger, balanced one
    for o in c.runs: assert (o.valid.targs == rare.targs[rare.splits['valid']]).all()
    assert c.table.index[0].startswith('tiny_resnet') # pretraining weighs more than balance
    best = max(c.runs, key=lambda o: o.valid.metrics['recall_macro'])
    assert c.table.index[0] == best.title and 'mean recall on valid' in c.show_table() # each class counts alike
    t = pd.read_csv(out/'results.csv')
    assert list(t.data) == ['as it is']*2 + ['balanced']*2
    assert (out/'balanced'/'cnn'/'seed-0'/'weights.safetensors').exists()
    page = (out/'report.html').read_text()
    for o in ('Data: ', 'cat, the class that as it is has least of', 'train and valid oversampled', 'cnn (balanced)'): assert o in page

def test_several_go_on(both, rare):
    c,out = both
    again = compare({'as it is':rare, 'balanced':rare.balance('oversample', valid=True)}, ['cnn', 'tiny_resnet'], seeds=1, epochs=2,
                    out=out, resume=True, verbose=False)
    pd.testing.assert_frame_equal(again.results.drop(columns='pictures_per_second'), c.results.drop(columns='pictures_per_second'))

def test_several_on_the_command_line(tmp_path):
    args = ('run', 'digits', '--classes', 3, '--per-class', 20, '--models', 'cnn', '--epochs', 1, '--seeds', 1, '--out', tmp_path/'out')
    res = cnnfast_here(*args, '--balance', 'none,undersample')
    assert res.returncode == 0, res.stderr
    assert list(pd.read_csv(tmp_path/'out'/'results.csv').model) == ['cnn (as it is)', 'cnn (undersampled)']
    for more in (('--folds', 3), ('--minutes', 1)):
        res = cnnfast_here('run', 'digits', '--balance', 'none,oversample', *more, '--out', tmp_path/'other')
        fails_with(res, 'compares data sets', 'give one')

# To hand in

def _figures(nb): # what the cell that trains puts out
    cell = next(o for o in nb['cells'] if ''.join(o['source']).startswith('comparison = '))
    return ''.join(cell['outputs'][-1]['data']['text/html'])

def test_notebook_comes_to_the_same_figures(tmp_path):
    "In a fresh process: trained again from the text of its cells, to the digit"
    data = cifar10_sample().subset(['cat', 'dog', 'ship'], per_class=60).subset(per_class=20, splits='test')
    models = {'small':Recipe('custom_cnn', epochs=3, kwargs=dict(widths=[8, 8, 16, 16])), 'cnn':'cnn'}
    folder = compare(data, models, seeds=2, epochs=2, verbose=False).hand_in(tmp_path/'hand-in')
    before = json.loads((folder/'project.ipynb').read_text())
    run = [sys.executable, '-m', 'jupyter', 'execute', '--inplace', 'project.ipynb']
    res = subprocess.run(run, cwd=folder, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    after = json.loads((folder/'project.ipynb').read_text())
    was,now = [sorted(re.findall(r'[\d.]+%', _figures(o))) for o in (before, after)] # accuracies and their intervals, not times
    assert len(was) >= 8 and was == now
    assert len(before['cells']) == len(after['cells']) > 25

def test_what_cannot_be_written_as_code(tmp_path):
    data = digits().subset(per_class=10)
    c = compare(data, ['cnn'], seeds=1, epochs=1, verbose=False)
    with pytest.raises(ValueError, match='is not known as code'): Comparison(data, c.runs).hand_in(tmp_path/'a')
    c.data.made = None
    with pytest.raises(ValueError, match='how this data set was made'): c.hand_in(tmp_path/'b')
    assert not list(tmp_path.iterdir())

def test_hand_in_on_the_command_line(tmp_path):
    res = cnnfast_here('run', 'digits', '--classes', 3, '--per-class', 20, '--models', 'cnn', '--epochs', 1, '--seeds', 1, '--hand-in',
                       '--out', tmp_path/'out')
    assert res.returncode == 0, res.stderr
    written = {o.name for o in (tmp_path/'out'/'hand-in').iterdir()}
    assert written == {'README.md', 'project.ipynb', 'report.html', 'report.pptx', 'requirements.txt'}
    assert 'digits().subset(classes=3, per_class=20)' in (tmp_path/'out'/'hand-in'/'project.ipynb').read_text().replace('\\"', '"')
