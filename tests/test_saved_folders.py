"Folders that an earlier version wrote (`tests/saved`) load as they did: models, an ensemble, an autoencoder, a whole run."
import json, shutil
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from cnnfast import Recipe, compare, digits, load_model

SAVED = ROOT/'tests'/'saved'

@pytest.fixture(scope='module')
def data(): return digits()
@pytest.fixture(scope='module')
def pics(data): return np.stack([data.items[i].array for i in data.splits['test'][:3]])

@pytest.mark.parametrize('folder, labels, probability', [
    ('run/small/seed-0', '305', [0.147927, 0.328091, 0.220474]),
    ('ensemble', '305', [0.139183, 0.272499, 0.182149])])
def test_same_predictions(folder, labels, probability, pics):
    t = load_model(SAVED/folder).predict(pics)
    assert ''.join(t.label) == labels and np.allclose(t.probability, probability, atol=1e-5)

def test_same_latent_vectors(pics):
    z = load_model(SAVED/'autoencoder').encode(pics)
    assert np.allclose(z[0], [-0.419434, -0.552767, -0.444780, -0.860350], atol=1e-4)

def test_run_is_taken_up(data, tmp_path):
    "Nothing is trained again, and the figures are those that were written"
    out = shutil.copytree(SAVED/'run', tmp_path/'run')
    models = {'small':Recipe('custom_cnn', epochs=3, kwargs=dict(widths=(4, 8, 8, 8), norm='batch')),
              'plain':Recipe('cnn', epochs=2, kwargs=dict(widths=(4, 4), hidden=8))}
    res = compare(data, models, seeds=1, out=out, resume=True, dls=data.dataloaders(bs=64), verbose=False)
    before = pd.read_csv(SAVED/'run'/'results.csv')
    same = [o for o in before.columns if not o.startswith('precision')] # undefined ones were left out of averages, and count as 0 now
    pd.testing.assert_frame_equal(res.results[same], before[same], check_exact=False, rtol=1e-6)
    file = 'small/seed-0/metrics.json'
    assert json.loads((out/file).read_text()) == json.loads((SAVED/'run'/file).read_text())
