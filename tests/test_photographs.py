"Photographs: kept once, cut in batches, probed, fine-tuned, cross-validated, within a budget; and what folders of them hold."
import json, os, resource, socket, struct, subprocess, sys, warnings
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from conftest import TINY, cnnfast, cnnfast_here, fails_with, needs_tiny
from cnnfast import (FrozenNorms, compare, ensemble, evaluate, export_onnx, fit, image_folder, image_table, load_model, probe, save_model,
                     scratch_learner, tiny_imagenet, transfer_learner, try_backbones)
from cnnfast.data.loading import kept_pictures
from cnnfast.data.pictures import OpenSquished, open_picture
from cnnfast.models import shipped
from cnnfast.models.pretrained import suited_size
from cnnfast.training.probe import kept_features, probe_learner

LITE = 'tf_efficientnet_lite0'
@pytest.fixture
def data(photographs): return image_folder(photographs)

def quietly(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()

# Backbones without a hub

@needs_tiny
@pytest.mark.filterwarnings('ignore:.*not in wnids.txt')
@pytest.mark.parametrize('arch,least', [(LITE, 0.52), ('tf_efficientnet_lite1', 0.52), ('tf_efficientnet_lite2', 0.52)])
def test_logits_are_right(arch, least):
    "On real pictures of 200 classes of ImageNet, enlarged to 160 pixels, over these classes: a wrong order or scale would give 0.5%"
    import timm
    if shipped.packaged_weights(arch) is None: pytest.skip(f'needs the weights of {arch}: pip install cnnfast[backbones]')
    tiny = tiny_imagenet(TINY)
    wnids = sorted(o.name for o in (tiny.path/'train').iterdir() if o.name.startswith('n'))
    names = timm.data.ImageNetInfo().label_names()
    classes = [names.index(o) for o in wnids]
    rows = tiny.splits['test'][::25] # 400 of the 10,000
    model = timm.create_model(arch).eval()
    model.load_state_dict(shipped.packaged_weights(arch))
    x = torch.stack([torch.from_numpy(np.array(open_picture(tiny.items[i], 160))) for i in rows]).permute(0, 3, 1, 2)
    with torch.inference_mode(): logits = torch.cat([model(o/127.5 - 1) for o in x.split(50)])[:,classes]
    assert (logits.argmax(1).numpy() == tiny.targs[rows]).mean() > least

def test_weights_are_the_published_ones(monkeypatch, tmp_path):
    "A file that was altered is refused"
    file = tmp_path/'models'/'weights.pth'
    file.parent.mkdir()
    file.write_bytes(shipped._packaged_file(LITE).read_bytes()[:-1] + b'x')
    monkeypatch.setattr(shipped, '_packaged_file', lambda arch: file)
    with pytest.raises(ValueError, match='not the file that was published'): shipped.packaged_weights(LITE)

def test_offline(data, monkeypatch):
    "The default for photographs needs no network, and has the weights of the package"
    def refuse(*args, **kwargs): raise AssertionError('a connection')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    body = transfer_learner(data.dataloaders(bs=8), seed=0).model[0][-1].model
    assert torch.equal(body.conv_stem.weight.cpu(), shipped.packaged_weights(LITE)['conv_stem.weight'])

def test_weights_that_are_not_at_hand(data, monkeypatch):
    "One sentence says which are"
    monkeypatch.setattr(shipped, '_packaged_file', lambda arch: None if arch == 'tf_efficientnet_lite1' else Path('there'))
    monkeypatch.setattr('cnnfast.models.pretrained._hub_reachable', lambda: False)
    with pytest.raises(ConnectionError, match=r'installed: tiny_resnet, tf_efficientnet_lite0.*\[backbones\]'):
        probe(data, 'tf_efficientnet_lite1')

# What is kept, and what is cut from it

def test_sizes(photographs, data):
    "Photographs are brought to what suits each model, unless a size is asked for"
    assert data.size == 200 and data.kept == (200, 248) and suited_size(LITE, data) == 224 and suited_size('fast_cnn', data) == 64
    small = image_folder(photographs, size=96)
    assert small.one_size and suited_size(LITE, small) == suited_size('fast_cnn', small) == 96
    assert image_folder(photographs, size=48).kept is None

def test_decoded_once(data):
    "At whatever size"
    data.decoded()
    written = data._cache_dir().stat().st_mtime_ns
    for size in (64, 224): data.new(size=size).dataloaders(bs=8)
    assert data._cache_dir() == data.new(size=64)._cache_dir() and data._cache_dir().stat().st_mtime_ns == written

@pytest.mark.parametrize('resize', ['crop', 'pad', 'squish'])
def test_kept_pictures_are_the_pictures(photographs, resize):
    "What is cut from the store is what opening the file gives, but for a second scaling"
    data = image_folder(photographs, resize=resize).new(size=128)
    dl = data.dataloaders(bs=8, augment=False).valid
    got = kept_pictures(dl, data.opener)(range(len(dl.dataset))).permute(0, 2, 3, 1).numpy()
    want = np.stack([np.asarray(open_picture(o, 128, resize=resize)) for o in dl.dataset.items])
    assert np.abs(got.astype(int)-want).mean() < 5

def test_same_pictures_lazily(data):
    "fastai's own path gives the same pictures, labels and order of classes"
    data = data.new(size=128)
    fast,lazy = data.dataloaders(bs=8, augment=False),data.dataloaders(bs=8, augment=False, in_memory=False, num_workers=0)
    (x,y),(a,b) = fast.valid.one_batch(),lazy.valid.one_batch()
    assert torch.equal(y, b) and x.shape == a.shape and (x-a).abs().mean() < 0.1 and fast.vocab == lazy.vocab

@pytest.mark.parametrize('augment', ['none', 'flip_crop', 'strong', [], False])
def test_every_split_has_the_size_of_the_model(data, augment):
    dls = data.new(size=64).dataloaders(bs=4, augment=augment)
    assert [tuple(dl.one_batch()[0].shape[2:]) for dl in dls.loaders] == [(64, 64)]*3
    dls = data.new(size=64).dataloaders(bs=4, augment=augment, train_size=48)
    assert [dl.one_batch()[0].shape[2] for dl in dls.loaders] == [48 if augment in ('flip_crop', 'strong') else 64, 64, 64]

def test_training_pictures_differ(data):
    "Another piece in each epoch, none in validation"
    dls = data.new(size=64).dataloaders(bs=8)
    dl = dls.train.new(shuffle=False)
    assert (dl.one_batch()[0] != dl.one_batch()[0]).float().mean() > 0.5
    assert torch.equal(dls.valid.one_batch()[0], dls.valid.one_batch()[0])

# Probe, fine-tuning, folds, budget

def test_probe_is_a_model_like_any_other(data, tmp_path):
    learn = probe(data, size=96, seed=0)
    ev = evaluate(learn)
    assert ev.metrics['accuracy'] > 0.8 and learn.history().valid_accuracy[0] == pytest.approx(evaluate(learn, 'valid').metrics['accuracy'])
    save_model(learn, tmp_path/'model')
    again = load_model(tmp_path/'model')
    files = [data.items[int(i)] for i in data.splits['test']]
    said = again.predict(files)
    assert (said.label == np.array(data.vocab)[ev.preds]).mean() >= 0.8 # from files, which are scaled once
    assert ensemble([learn, again], dls=learn.dls).evaluate().metrics['accuracy'] == pytest.approx(ev.metrics['accuracy'])
    onnx = pytest.importorskip('onnxruntime')
    session = onnx.InferenceSession(str(export_onnx(learn, tmp_path/'model.onnx')))
    x = np.stack([np.asarray(again.opener.encodes(o)) for o in files]).transpose(0, 3, 1, 2).astype(np.float32)
    assert np.abs(session.run(None, {'pictures':x})[0] - again.predict_proba(files)).max() < 1e-3

def test_features_are_computed_once(data):
    "For all splits and folds, until the backbone changes"
    learn = probe_learner(data.new(size=96).dataloaders(bs=8), LITE)
    kept_features(learn, 'train'); kept_features(learn, 'valid')
    calls = []
    def count(*args): calls.append(args)
    handle = learn.model[0].register_forward_hook(count)
    for o in ('train', 'valid'): kept_features(learn, o)
    assert not calls
    for p in learn.model[0].parameters(): p.data.mul_(1.01)
    kept_features(learn, 'valid')
    handle.remove()
    assert calls

def test_frozen_norms_learn_the_same(data):
    "Folded or not: the same weights after a step, but for rounding; and the statistics stay"
    class Frozen(FrozenNorms):
        def before_fit(self): pass # not folded
    results = []
    for kind in (FrozenNorms, Frozen):
        learn = probe_learner(data.new(size=64).dataloaders(bs=8, augment=False), LITE, seed=0, cbs=kind())
        learn.unfreeze()
        quietly(learn, lambda: learn.fit(1, 1e-4))
        results.append({k:v.cpu().clone() for k,v in learn.model.state_dict().items()})
    for k,v in results[0].items():
        assert (v.float()-results[1][k].float()).norm() <= 0.02*(results[1][k].float().norm()+1), k
        if 'running' in k: assert torch.equal(v, results[1][k]), k

def test_what_fine_tuning_leaves_alone(data):
    "By default the first half of the stages, their norms included; each part can be left out"
    def changed(**how):
        learn = probe_learner(data.new(size=64).dataloaders(bs=8), LITE, seed=0)
        learn.fit_probe()
        stages = list(map(list, learn.splitter(learn.model)))
        before = [[p.detach().clone() for p in o] for o in stages]
        quietly(learn, lambda: learn.fine_tune_probe(1, **how))
        return [any(not torch.equal(p.detach().cpu(), q.cpu()) for p,q in zip(a, b)) for a,b in zip(stages, before)]
    assert changed() == [False]*4 + [True]*5
    assert changed(frozen=0, mixup=0, average=0, freeze_norms=False) == [True]*9

def test_compare_photographs(data, tmp_path):
    "By default a CNN from scratch, the probe, and fine-tuning; each at its size, which the report says"
    res = compare(data, epochs=1, out=tmp_path/'out', verbose=False, bs=8)
    assert set(res.table.index) == {'fast_cnn', f'probe-{LITE}', LITE}
    assert res.table['size'].to_dict() == {'fast_cnn':64, f'probe-{LITE}':224, LITE:224}
    page = (tmp_path/'out'/'report.html').read_text()
    assert '224×224 pixels' in page and '64×64 pixels' in page and 'logistic regression on the features' in page and 'missing' not in page
    again = compare(data, epochs=1, out=tmp_path/'out', verbose=False, bs=8, resume=True)
    assert again.table.accuracy.to_dict() == res.table.accuracy.to_dict()
    assert res.ensemble(['fast_cnn', LITE]).evaluate().metrics['accuracy'] > 0.7

def test_folds(data, tmp_path):
    "Every picture once, judged by a model that has not seen it; what is handed over is all folds' models"
    res = compare(data, ['probe'], folds=3, out=tmp_path/'out', verbose=False)
    run = res.runs[0]
    assert len(run.evaluation.targs) == 48 and len(run.folds) == 3 and res.table.accuracy['probe'] > 0.8
    assert '3-fold cross-validation' in (tmp_path/'out'/'report.html').read_text()
    final = load_model(tmp_path/'out'/'final')
    assert len(final.members) == 3 and set(final.predict(data.items[:2]).label) <= set(data.vocab)

def test_few_pictures_in_folds(photographs, tmp_path):
    "14 of a class in 5 folds work; fewer pictures, or groups, than folds are a sentence"
    few = image_folder(photographs).subset(per_class=14, splits=['train'])
    assert [len(o.splits['valid']) for o in few.folds(5)]
    with pytest.raises(ValueError, match='Too few pictures for 30 folds'): few.folds(30)
    grouped = image_folder(photographs, group=lambda p: p.parent.name + str(int(p.stem) % 3))
    with pytest.raises(ValueError, match='Too few sources for 5 folds'): grouped.folds(5)
    for o in grouped.folds(3): assert not set(grouped.groups[o.splits['train']]) & set(grouped.groups[o.splits['valid']])

def test_budget(photographs, tmp_path):
    "A plan first, then the model and the report; a budget too short for anything names the least"
    res = cnnfast('run', photographs, '--minutes', '1.5', '--out', tmp_path/'out')
    assert res.returncode == 0, res.stderr
    assert res.stdout.index('Plan for') < res.stdout.index(f'Probe {LITE}') < res.stdout.index('Fine-tune')
    page = (tmp_path/'out'/'report.html').read_text()
    assert 'The plan' in page and 'No network was trained from scratch' in page
    assert cnnfast('run', photographs, '--minutes', '1.5', '--out', tmp_path/'out', '--resume').returncode == 0
    fails_with(cnnfast_here('run', photographs, '--minutes', '0.01', '--out', tmp_path/'short'), 'too short', 'the least that works')
    assert not (tmp_path/'short').exists()
    fails_with(cnnfast_here('run', photographs, '--minutes', '1', '--epochs', '2'), 'leave out --epochs')
    fails_with(cnnfast_here('run', 'digits', '--minutes', '1'), 'minutes are for photographs')

def test_backbones_at_their_own_sizes(data):
    trials = try_backbones(data, [LITE, 'tiny_resnet'], epochs=0, bs=8)
    assert trials.table['size'].to_dict() == {LITE:224, 'tiny_resnet':64}

# What real folders hold

@pytest.fixture
def odd(photographs, tmp_path):
    "Puts a picture of a strange kind into a copy of the folder"
    import shutil
    root = tmp_path/'odd'
    shutil.copytree(photographs, root)
    return root

def rows_of(data, name): return [i for i,o in enumerate(data.items.names) if Path(o).name == name][0]

CHINA = Image.fromarray(load_sample_image('china.jpg'))

@pytest.mark.parametrize('name,make', [
    ('panorama.jpg', lambda p: CHINA.resize((2000, 200)).save(p)), ('strip.png', lambda p: CHINA.resize((500, 1)).save(p)),
    ('pole.png', lambda p: CHINA.resize((1, 500)).save(p)), ('dot.png', lambda p: CHINA.resize((1, 1)).save(p)),
    ('print.jpg', lambda p: CHINA.convert('CMYK').save(p)),
    ('deep.png', lambda p: Image.fromarray(np.asarray(CHINA.convert('L')).astype(np.uint16)*257).save(p)),
    ('moving.gif', lambda p: CHINA.save(p, save_all=True, append_images=[Image.new('RGB', CHINA.size, 'red')]))])
def test_odd_pictures_are_taken(odd, name, make):
    make(odd/'temple'/name)
    data = image_folder(odd)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = data.new(size=64).dataloaders(bs=8)
    assert not data.left_out and len(dls.train_ds)
    pics,_,bad,ratios = data.decoded()
    assert not bad and 0.4 < ratios[rows_of(data, name)] < 2.5
    if name == 'moving.gif': # the first frame
        want = np.asarray(OpenSquished(data.kept).encodes(CHINA)).transpose(2, 0, 1)
        assert np.abs(pics[rows_of(data, name)].astype(int)-want).mean() < 20

def test_turned_by_exif(odd):
    exif = Image.Exif(); exif[0x0112] = 6 # turn it right by 90 degrees
    CHINA.save(odd/'temple'/'turned.jpg', exif=exif)
    data = image_folder(odd)
    pics,*_,ratios = data.decoded()
    i = rows_of(data, 'turned.jpg')
    assert ratios[i] == pytest.approx(427/640, abs=0.01)
    want = np.asarray(OpenSquished(data.kept).encodes(CHINA.rotate(-90, expand=True))).transpose(2, 0, 1)
    assert np.abs(pics[i].astype(int)-want).mean() < 6

def bomb(path):
    "A small file that says it has 400 megapixels"
    CHINA.save(path)
    b = bytearray(path.read_bytes())
    at = b.index(b'\xff\xc0')+5 # height and width stand behind the length and the depth of the frame
    b[at:at+4] = struct.pack('>HH', 20000, 20000)
    path.write_bytes(b)

@pytest.mark.parametrize('name,make,why', [
    ('telephone.heic', lambda p: p.write_bytes(b'\0\0\0\x18ftypheic' + b'\0'*200), 'pillow-heif'),
    ('new.avif', lambda p: p.write_bytes(b'\0\0\0\x18ftypavix' + b'\0'*200), 'pillow'),
    ('cut.jpg', lambda p: (CHINA.save(p), p.write_bytes(p.read_bytes()[:9000])), 'truncated'),
    ('bomb.png', lambda p: Image.new('1', (20000, 20000)).save(p), 'decompression bomb'), ('bomb.jpg', bomb, 'decompression bomb')])
def test_unreadable_pictures_are_named(odd, name, make, why):
    make(odd/'temple'/name)
    data = image_folder(odd)
    with pytest.warns(UserWarning, match=f'1 of 49 pictures.*{name}'): data.dataloaders(bs=8)
    assert why in str(data.left_out) and len(data) == 48

def test_hundred_megapixels_stay_in_bounds(odd, tmp_path):
    "A photograph of 96 megapixels, and one of 24 that is no JPEG, while little memory more is taken than what they need when they are open"
    CHINA.resize((12000, 8000)).save(odd/'temple'/'large.jpg', quality=60)
    CHINA.resize((6000, 4000)).save(odd/'temple'/'large.png', compress_level=1)
    code = ('import resource, sys; from cnnfast import *; d = image_folder(sys.argv[1]); '
            'peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024; before = peak(); '
            'pics,_,bad,_ = d.decoded(cache=False); assert not bad, bad; print(peak()-before)')
    env = {**os.environ, 'CNNFAST_HOME':str(tmp_path/'home')}
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, str(odd)], capture_output=True, text=True, env=env)
    assert res.returncode == 0, res.stderr
    assert int(res.stdout.split()[-1]) < 400

def features(learn, monkeypatch):
    "The features of valid, and how many pictures were looked at for them"
    from cnnfast.training import probe as module
    seen,real = [],module.backbone_features
    def look(learn, split, rows): seen.append(len(rows)); return real(learn, split, rows)
    monkeypatch.setattr(module, 'backbone_features', look)
    res = kept_features(learn, 'valid')[0]
    monkeypatch.undo()
    return res,sum(seen)

def test_folds_share_features(data, monkeypatch):
    "Though they are normalised by other training pictures, a picture is looked at once"
    folds = data.new(size=64).folds(3)
    learners = [probe_learner(o.dataloaders(bs=8), LITE, seed=0) for o in folds]
    for split in ('train', 'valid'): kept_features(learners[0], split)
    for o in learners: assert features(o, monkeypatch)[1] == 0

def test_other_features_are_computed_anew(photographs, tmp_path, monkeypatch):
    "Enlarged otherwise, of a picture that was changed, or where the file is damaged"
    import shutil
    from cnnfast.core.disk import cnnfast_home
    root = shutil.copytree(photographs, tmp_path/'changing')
    def learner(**kwargs): return probe_learner(image_folder(root, size=96).dataloaders(bs=8), LITE, seed=0, **kwargs)
    first,n = features(learner(), monkeypatch)
    assert n and features(learner(), monkeypatch)[1] == 0
    larger,m = features(learner(size=128), monkeypatch)
    assert m == n and np.abs(larger-first).max() > 0.1
    for o in (cnnfast_home()/'features').iterdir(): o.write_bytes(o.read_bytes()[:1000])
    assert features(learner(), monkeypatch)[1] == n
    data = image_folder(root)
    Image.new('RGB', (300, 200), 'red').save(data.items[int(data.splits['train'][1])])
    assert features(learner(), monkeypatch)[1] == n
