"Model folders: what is refused, what agrees, what it costs."
import errno, json, os, pickle
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from conftest import cnnfast_here, fails_with
from cnnfast.data.dataset import digits
from cnnfast.data.folders import image_folder, sample_folder
from cnnfast.training.learner import scratch_learner
from cnnfast.training.transfer import transfer_learner
from cnnfast.saving.folder import _hash, load_model, save_model
from cnnfast.saving.export import export_onnx

@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    learn = scratch_learner(image_folder(sample_folder(tmp_path_factory.mktemp('photos')/'photos'), size=32).dataloaders(bs=64), 'fast_cnn',
                            widths=(16, 32, 32), seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_linear(4)
    return learn

@pytest.fixture
def folder(learn, tmp_path): return save_model(learn, tmp_path/'model')

def truth(learn):
    with learn.no_bar(), learn.no_logging(): return learn.get_preds(ds_idx=2)[0].numpy()

def test_predictions_are_the_learners(learn, folder, photos):
    "From files, from a list, from arrays and tensors, from a folder"
    c,dl = load_model(folder, 'cpu'),learn.dls.test
    files = list(dl.items)
    expected = truth(learn)
    assert np.allclose(c.predict_proba(files), expected, atol=1e-5)
    pics = [np.asarray(Image.open(o).convert('RGB')) for o in files[:3]]
    assert np.allclose(c.predict_proba(pics), expected[:3], atol=1e-5)
    small = np.stack([np.asarray(c.opener(o)) for o in files])
    assert np.allclose(c.predict_proba(small), expected, atol=1e-5)
    assert np.allclose(c.predict_proba(torch.from_numpy(small).permute(0, 3, 1, 2)), expected, atol=1e-5)
    df = c.predict(photos)
    assert len(df) == 494 and set(df.label) <= {'flower', 'temple'} and df.probability.between(0.5, 1).all()
    assert (df.label == [os.path.basename(os.path.dirname(o)) for o in df.file]).mean() > 0.8

@pytest.mark.parametrize('normalize', ['picture', 'none'])
def test_other_normalisation(normalize, tmp_path):
    learn = scratch_learner(digits().dataloaders(bs=64, normalize=normalize), 'cnn', seed=0)
    c = load_model(save_model(learn, tmp_path/'m'), 'cpu')
    pics = digits().decoded()[0][digits().splits['test'], 0]
    assert np.allclose(c.predict_proba(pics), truth(learn), atol=1e-5)

def spoil(folder, name, f):
    p = folder/name
    p.write_bytes(f(p.read_bytes()))

def signed(folder, change):
    "Change the config, with a checksum that is right"
    config = json.loads((folder/'config.json').read_text())
    config.pop('checksum'); change(config)
    (folder/'config.json').write_text(json.dumps({**config, 'checksum':_hash(config)}))

@pytest.mark.parametrize('harm,words', {
    'weights cut off': (lambda d: spoil(d, 'weights.safetensors', lambda b: b[:-100]), 'altered, cut off or damaged'),
    'weights altered': (lambda d: spoil(d, 'weights.safetensors', lambda b: b[:-1] + bytes([b[-1] ^ 1])), 'altered, cut off or damaged'),
    'weights missing': (lambda d: (d/'weights.safetensors').unlink(), 'weights.safetensors is missing'),
    'config missing': (lambda d: (d/'config.json').unlink(), 'config.json is missing'),
    'config cut off': (lambda d: spoil(d, 'config.json', lambda b: b[:100]), 'no JSON'),
    'config altered': (lambda d: spoil(d, 'config.json', lambda b: b.replace(b'temple', b'tempel')), 'checksum is another'),
    'newer version': (lambda d: spoil(d, 'config.json', lambda b: b.replace(b'"format": 1', b'"format": 2')), 'newer version'),
    'weights are a pickle': (lambda d: spoil(d, 'weights.safetensors', lambda b: pickle.dumps(print)), 'checksum is another'),
}.values())
def test_damaged_folder(folder, harm, words):
    harm(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words): load_model(folder)

@pytest.mark.parametrize('change,words', {
    'a hub as architecture': (lambda c: c['architecture'].update(
        name='hf-hub:someone/something', transfer=True, scale=None, stem=False, renormalize=True), 'no model .hf-hub'),
    'a file to read': (lambda c: c['architecture'].update(name='resnet18', kwargs=dict(checkpoint_path='/etc/passwd')),
                       'no part of an architecture'),
    'another architecture': (lambda c: c['architecture'].update(name='cnn', kwargs={}),
                             'does not hold the model that its config.json describes'),
    'other arguments': (lambda c: c['architecture'].update(kwargs=dict(width=3)), 'does not hold the model that its config.json describes'),
    'no architecture': (lambda c: c.pop('architecture'), 'does not hold the model that its config.json describes')}.values())
def test_folder_made_to_deceive(folder, change, words):
    "With a checksum that is right"
    signed(folder, change)
    with pytest.raises(ValueError, match=words): load_model(folder)

def test_pickle_offered_as_a_model(tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'made by a pickle'),)
    (tmp_path/'model.pkl').write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match='A pickle can run code'): load_model(tmp_path/'model.pkl')
    assert not (tmp_path/'made by a pickle').exists()

def test_nothing_is_overwritten(learn, folder):
    with pytest.raises(FileExistsError, match='exists already'): save_model(learn, folder)

def test_models_made_by_hand(learn, tmp_path):
    other = scratch_learner(learn.dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3*32*32, 2)))
    with pytest.raises(ValueError, match='made by hand'): save_model(other, tmp_path/'m')

def test_arguments_that_are_no_texts(learn, tmp_path):
    other = scratch_learner(learn.dls, 'test_resnet', norm_layer=torch.nn.BatchNorm2d)
    with pytest.raises(ValueError, match='made with norm_layer, which is no number'): save_model(other, tmp_path/'m')
    assert not list(tmp_path.iterdir())

def test_transfer_model(learn, tmp_path):
    "With its scaling, its stem and its normalisation"
    tuned = transfer_learner(learn.dls, 'resnet18', pretrained=False, size=48, stem=True, seed=0)
    assert np.allclose(load_model(save_model(tuned, tmp_path/'m'), 'cpu').predict_proba(list(learn.dls.test.items)[:20]), truth(tuned)[:20],
                       atol=1e-5)

def test_full_disk(learn, tmp_path, monkeypatch):
    def full(self, data):
        with open(self, 'wb') as f: f.write(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space left'): save_model(learn, tmp_path/'m')
    assert not list(tmp_path.iterdir())

def test_what_is_no_picture(folder, photos, tmp_path):
    c = load_model(folder)
    (tmp_path/'note.png').write_text('not a picture')
    with pytest.raises(ValueError, match='note.png .*cannot be read as a picture'): c.predict(tmp_path/'note.png')
    with pytest.raises(FileNotFoundError, match='gone.png does not exist'): c.predict(tmp_path/'gone.png')
    with pytest.raises(ValueError, match='holds no pictures'): c.predict(folder)
    (photos/'flower'/'broken.png').write_text('not a picture')
    with pytest.warns(UserWarning, match='1 of 495 files .*broken.png'): df = c.predict(photos)
    assert df[df.file.str.endswith('broken.png')].label.isna().all() and df.label.notna().sum() == 494

def test_command(folder, photos, tmp_path):
    files = sorted((photos/'temple').glob('*.png'))[:3]
    res = cnnfast_here('predict', folder, *files)
    lines = res.stdout.splitlines()
    assert res.returncode == 0 and lines[0] == 'file,label,probability' and len(lines) == 4 and lines[1].startswith(str(files[0]))
    assert cnnfast_here('predict', folder, photos, '--out', tmp_path/'p.csv').returncode == 0
    assert len((tmp_path/'p.csv').read_text().splitlines()) == 495
    fails_with(cnnfast_here('predict', folder, tmp_path/'gone.png'), 'gone.png', 'does not exist')
    fails_with(cnnfast_here('predict', tmp_path/'nowhere', files[0]), 'nowhere', 'does not exist')

def test_onnx(learn, folder, tmp_path):
    "The graph takes pictures as they are, in batches of any size, and agrees to 1e-4"
    pytest.importorskip('onnxscript', reason='needs cnnfast[onnx]')
    ort = pytest.importorskip('onnxruntime', reason='needs cnnfast[onnx]')
    c = load_model(folder, 'cpu')
    session = ort.InferenceSession(export_onnx(c, tmp_path/'m.onnx'))
    pics = np.stack([np.asarray(c.opener(o)) for o in list(learn.dls.test.items)[:5]])
    out = session.run(None, {'pictures':pics.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    assert np.abs(out - c.predict_proba(pics)).max() < 1e-4

def test_fast_cnn_of_earlier_versions(tmp_path):
    "Which had no bias after the whitened layer"
    from safetensors.torch import load_file, save_file
    learn = scratch_learner(digits().dataloaders(bs=64, device='cpu'), 'fast_cnn', seed=0)
    folder = save_model(learn, tmp_path/'early')
    pics,file = [np.asarray(o) for o in np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)],folder/'weights.safetensors'
    was = load_model(folder, 'cpu').predict_proba(pics)
    weights = load_file(file)
    assert not weights.pop('0.bias').any()
    save_file(weights, file)
    signed(folder, lambda config: config.update(weights=_hash(file.read_bytes())))
    assert np.array_equal(load_model(folder, 'cpu').predict_proba(pics), was)
    weights.pop('2.first.0.weight')
    save_file(weights, file)
    signed(folder, lambda config: config.update(weights=_hash(file.read_bytes())))
    with pytest.raises(ValueError, match='2.first.0.weight is .* and not there in the file'): load_model(folder, 'cpu')
