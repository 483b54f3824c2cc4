"Several processes that train one model: what comes out is what one process makes of the same batches"
import json, os, re, signal, subprocess, sys, time
import numpy as np
import pytest
import torch
from conftest import ROOT, cnnfast_here, fails_with
from cnnfast.core.processes import launcher_may_end_it
from cnnfast.training.checkpoints import Checkpoint
from cnnfast.training.states import read_state

pytest.importorskip('accelerate', reason='needs accelerate (the extra `distributed`)')
import processes

def torchrun(*args, n=2, **kwargs):
    "What several processes print, of which none may use a GPU or more than a core"
    env = {**os.environ, 'ACCELERATE_USE_CPU':'true', 'OMP_NUM_THREADS':'1', 'PYTHONPATH':str(ROOT), 'PYTHONWARNINGS':'ignore'}
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', n, '--standalone', *args]
    return subprocess.run(list(map(str, cmd)), capture_output=True, text=True, env=env, **kwargs)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "What two processes reached, by name, and the folder with their weights"
    folder = tmp_path_factory.mktemp('together')
    r = torchrun(ROOT/'tests'/'processes.py', folder)
    assert r.returncode == 0, r.stderr[-3000:]
    return json.loads((folder/'facts.json').read_text()),folder

@pytest.mark.parametrize('name', processes.PLAIN)
def test_the_same_as_alone(made, name):
    "Weights, losses, metrics and epochs; batch norms, uneven shares, early stopping, averaged weights, other loaders"
    facts,folder = made
    alone = processes.trained(name)
    assert processes.apart(processes.weights(alone), torch.load(folder/f'{name}.pth', weights_only=True)) < 1e-6
    history = alone.history().to_dict('list')
    assert history.keys() == facts[name]['history'].keys()
    for k,v in history.items(): np.testing.assert_allclose(facts[name]['history'][k], v, rtol=1e-6, err_msg=k)
    assert facts[name]['bs'] == alone.dls.train.bs and facts[name]['idxs'] == len(alone.dls.train.dataset) # as they were before

def test_early_stopping_stopped(made): assert len(made[0]['stopped']['history']['epoch']) < 5

def test_chance(made):
    "Each process has its own, all end with the same weights, and a training that was broken off goes on exactly"
    facts,_ = made
    (a,x),(b,y) = facts['chance']
    assert a != b and x != y
    assert facts['agree'] == [0, 0]
    assert facts['resumed'] == [0, 0]

def test_all_stop_where_the_loss_diverges(made):
    a,b = made[0]['diverged']
    assert a == b and 'The loss became' in a

def test_another_number_of_processes(made):
    saved = made[1]/'other.safetensors'
    with pytest.raises(ValueError, match='was written by 2 processes.*go on with as many, not with 1'):
        processes.fit(processes.with_chance(cbs=[Checkpoint(saved, resume=True)]))

def test_one_that_dies_and_the_command(tmp_path):
    "All end with one sentence, the checkpoint stands, and as many processes go on from it; one prints and writes"
    args = ['run', '--models', 'cnn', '--epochs', '3', '--seeds', '1', '--per-class', '40', '--out', tmp_path/'out']
    r = torchrun(ROOT/'tests'/'processes.py', *args)
    assert r.returncode != 0
    said = [o for o in r.stderr.splitlines() if o.startswith('cnnfast: error')]
    assert len(said) == 1 and 'Another of the 2 processes has ended' in said[0] and 'resume' in said[0], r.stderr[-3000:]
    saved, = (tmp_path/'out').rglob('.*.safetensors')
    assert read_state(saved)['epochs'] in (0, 1)
    r = torchrun('-m', 'cnnfast', *args, '--resume')
    assert r.returncode == 0, r.stderr[-3000:]
    assert len(re.findall(r'^\[1/1\] cnn, seed 0: ', r.stdout, re.M)) == 1 and r.stdout.count('The report: ') == 1
    metrics = json.loads((tmp_path/'out'/'cnn'/'seed-0'/'metrics.json').read_text())
    assert metrics['machine'].startswith('2 × ') and (tmp_path/'out'/'report.html').exists() and not saved.exists()

@pytest.fixture
def two(monkeypatch):
    "This process believes that it is one of two; what it does with SIGTERM is undone"
    monkeypatch.setenv('WORLD_SIZE', '2')
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)

def test_launcher_is_quicker(two):
    "A launcher that sees a process die may end the others before they notice: they say the same, and are not disturbed while they do"
    with pytest.raises(ConnectionError, match='Another of the 2 processes has ended'), launcher_may_end_it():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    os.kill(os.getpid(), signal.SIGTERM)

def test_bad_input(two, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'accelerate', None)
    fails_with(cnnfast_here('run', '--out', tmp_path/'a'), 'Several processes need Accelerate', '[distributed]')
