"Maps point at what decides the class; every tool works on cnnfast's models and timm's; what cannot be shown is said."
import numpy as np, pytest, torch
from cnnfast.data.pictures import Picture
from cnnfast.data.dataset import ImageData, digits
from cnnfast.training.learner import scratch_learner
from cnnfast.training.transfer import transfer_learner
from cnnfast.evaluation.metrics import evaluate
from cnnfast.evaluation.mistakes import split_pictures
from cnnfast.interpretation.activations import PictureBatch, activations, find_layer, look_at, stages
from cnnfast.interpretation.filters import filter_patterns, first_filters, plot_filters
from cnnfast.interpretation.maps import class_maps, occlusion_maps, plot_maps
from cnnfast.interpretation.embeddings import embeddings, plot_embeddings
import matplotlib.pyplot as plt

SIDE,PATCH = 64,28

def planted(n, seed):
    "Pieces of a photograph, with a square of stripes that alone decides the class: lying or standing; and the box of each"
    from sklearn.datasets import load_sample_image
    rng,photo = np.random.default_rng(seed),load_sample_image('china.jpg')
    stripes = np.where(np.arange(PATCH) % 4 < 2, 230, 20).astype(np.uint8)
    pics,boxes = [],[]
    for k in range(n):
        y,x = rng.integers(0, photo.shape[0]-SIDE),rng.integers(0, photo.shape[1]-SIDE)
        top,left = rng.integers(0, SIDE-PATCH, 2)
        pic = photo[y:y+SIDE, x:x+SIDE].copy()
        square = np.repeat(stripes[:,None], PATCH, 1)
        pic[top:top+PATCH, left:left+PATCH] = (square if k % 2 else square.T)[...,None]
        pics.append(Picture(pic, ('standing', 'lying')[k % 2])); boxes.append((top, left))
    return pics,boxes

@pytest.fixture(scope='module')
def trained():
    "A network trained on planted pictures, pictures of its test split, and the boxes of these"
    items,boxes = planted(600, 0)
    splits = dict(train=np.arange(400), valid=np.arange(400, 500), test=np.arange(500, 600))
    data = ImageData('planted', items, [k % 2 for k in range(600)], splits, ['standing', 'lying'], size=SIDE, flip=False)
    learn = scratch_learner(data.dataloaders(bs=50, augment=False), 'custom_cnn', seed=0, widths=(16, 16, 32, 64))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(6)
    return learn,look_at(learn, 100, 'test'),boxes[500:]

def share_inside(maps, boxes):
    "Share of the positive mass of each map that lies in its box"
    return np.array([m.clip(0)[t:t+PATCH, l:l+PATCH].sum()/max(1e-12, m.clip(0).sum()) for m,(t,l) in zip(maps, boxes)])

def test_maps_point_at_what_decides(trained):
    "Grad-CAM: at least 80% of the positive mass inside the box, which is a fifth of the picture"
    learn,shown,boxes = trained
    assert evaluate(learn).metrics['accuracy'] > 0.95
    maps,targs = class_maps(learn, shown, target=shown.targs)
    assert maps.shape == (100, SIDE, SIDE) and targs == list(shown.targs)
    assert share_inside(maps, boxes).mean() >= 0.8
    other = class_maps(learn, shown, target=1-shown.targs)[0] # what speaks for the class that it is not
    assert share_inside(other, boxes)[other.sum((1, 2)) > 0].mean() < 0.2

def test_occlusion_points_at_what_decides(trained):
    learn,_,boxes = trained
    shown = look_at(learn, 20, 'test')
    maps = occlusion_maps(learn, shown, target=shown.targs, patch=16)[0]
    assert np.mean([np.abs(np.subtract(np.unravel_index(m.argmax(), m.shape), (t+PATCH/2, l+PATCH/2))).max() < PATCH/2 for m,
                    (t,l) in zip(maps, boxes)]) >= 0.9

@pytest.fixture(scope='module')
def dls(): return digits().subset(per_class=20).dataloaders(bs=32)

def learner(dls, arch):
    if arch in ('ann', 'cnn', 'custom_cnn', 'fast_cnn'): return scratch_learner(dls, arch, seed=0)
    ours = arch == 'tiny_resnet'
    return transfer_learner(dls, arch, pretrained=ours, seed=0, size=None if ours else 64)

@pytest.mark.parametrize('arch', ('cnn', 'custom_cnn', 'fast_cnn', 'tiny_resnet', 'resnet18', 'mobilenetv3_small_050', 'convnext_atto'))
def test_every_model(dls, arch):
    "By layer name, with what comes out of it"
    learn = learner(dls, arch)
    shown = look_at(learn, 3, 'test')
    assert shown.pics.shape == (3, 8, 8, 3) and 0 <= shown.pics.min() and shown.pics.max() <= 1
    np.testing.assert_allclose(shown.pics[1,...,0]*255, np.asarray(split_pictures(dls.loaders[2], [1])[0]), atol=0.6)
    found = stages(learn.model, shown.x)
    acts = activations(learn, shown)
    assert list(acts) == list(found) and all(a.shape == (3, *found[k]) for k,a in acts.items())
    name = list(found)[-1]
    out = {}
    hook = learn.model.get_submodule(name).register_forward_hook(lambda m, i, o: out.update(o=o))
    with torch.no_grad(): learn.model(shown.x)
    hook.remove()
    np.testing.assert_allclose(activations(learn, shown, name)[name], out['o'].numpy(), rtol=1e-4, atol=1e-5)
    for method in ('gradcam', 'hirescam'):
        maps,targs = class_maps(learn, shown, method=method)
        assert maps.shape == (3, 8, 8) and np.isfinite(maps).all() and maps.min() >= 0 and maps.max() <= 1
    probs = learn.model(shown.x).softmax(1)
    assert targs == probs.argmax(1).tolist()
    assert first_filters(learn).shape[2] > 1
    before = [p.requires_grad for p in learn.model.parameters()]
    pics,channels,layer = filter_patterns(learn, name, [0, 2], steps=5)
    assert pics.shape[0] == 2 and channels == [0, 2] and layer == name and [p.requires_grad for p in learn.model.parameters()] == before
    x,y,preds = embeddings(learn, 'test', 20)
    assert len(x) == len(y) == len(preds) == 20
    plt.close('all')

def test_patterns_raise_what_they_are_made_for(trained):
    "The pattern of a channel moves it more than any picture of the test split does"
    learn,shown,_ = trained
    layer = list(stages(learn.model, shown.x))[1]
    pics,channels,_ = filter_patterns(learn, layer, 4, steps=60)
    real = activations(learn, shown, layer)[layer].mean((2, 3))
    norm = learn.dls.after_batch.fs[-1]
    x = torch.from_numpy(pics).permute(0, 3, 1, 2).float()
    x = (x-norm.mean.cpu())/norm.std.cpu()
    own = activations(learn, PictureBatch(x, pics, None, ['a', 'b']), layer)[layer].mean((2, 3))
    assert all(own[k,c] > real[:,c].max() for k,c in enumerate(channels))

def test_embeddings_are_what_the_last_layer_gets(trained):
    learn,shown,_ = trained
    x,y,preds = embeddings(learn, 'test')
    last = [o for o in learn.model.modules() if isinstance(o, torch.nn.Linear)][-1]
    assert (last(torch.from_numpy(x)).argmax(1).numpy() == preds).all() and (y == shown.targs).all()
    ax = plot_embeddings(learn, 'test', n=60, method='pca')
    assert sum(len(o.get_offsets()) for o in ax.collections[:-1]) == 60
    assert len(ax.collections[-1].get_offsets()) == (y != preds)[:60].sum()
    plt.close('all')

def test_drawn_maps(trained):
    "Pictures, and below them the maps; titles say what the map is of and what the picture is"
    learn,shown,_ = trained
    some = look_at(learn, 4, 'test')
    ax = plot_maps(learn, some, target='lying', methods=('gradcam', 'occlusion'))
    texts = [o.get_text() for o in ax.texts]
    assert len(texts) == 12 and all(o.startswith('lying') for o in texts[:4]) and texts[4] == 'gradcam' and texts[8] == 'occlusion'
    assert [o.split('is ')[-1] for o in texts[:4]] == [some.vocab[o] for o in some.targs]
    plt.close('all')

def test_files_and_grey_pictures(dls, tmp_path):
    from PIL import Image
    Image.new('L', (20, 20), 128).save(tmp_path/'grey.png')
    shown = look_at(learner(dls, 'cnn'), [tmp_path/'grey.png'])
    assert shown.targs is None and abs(shown.pics*255 - 128).max() < 1
    plot_maps(learner(dls, 'cnn'), shown); plt.close('all')

def test_bad_input(dls):
    learn = learner(dls, 'cnn')
    shown = look_at(learn, 2)
    for f in (lambda: activations(learn, shown, 'layers.0.cnv'), lambda: class_maps(learn, shown, layer='nowhere'),
              lambda: filter_patterns(learn, 'nowhere')):
        with pytest.raises(ValueError, match='There is no layer'): f()
    with pytest.raises(ValueError, match=list(dict(learn.model.named_modules()))[1]):
        find_layer(learn.model, list(dict(learn.model.named_modules()))[1] + 'x')
    with pytest.raises(ValueError, match='no convolution'): plot_filters(learner(dls, 'ann'))
    with pytest.raises(ValueError, match='no map over the picture'): class_maps(learner(dls, 'ann'), shown)
    with pytest.raises(ValueError, match='gradcam, hirescam and cam'): class_maps(learn, shown, method='gradcm')
    with pytest.raises(ValueError, match='There is no class'): class_maps(learn, shown, target='ten')
    with pytest.raises(ValueError, match='3 classes for 2 pictures'): class_maps(learn, shown, target=[1, 2, 3])
    with pytest.raises(IndexError, match='no channel 999'): filter_patterns(learn, channels=[999])
    with pytest.raises(IndexError, match='no picture 99999'): look_at(learn, [99999])
    with pytest.raises(ValueError, match='no split'): look_at(learn, 2, 'dev')
    with pytest.raises(ValueError, match='tsne and pca'): plot_embeddings(learn, method='umap')
    with pytest.raises(ValueError, match='average pooling'): class_maps(learner(dls, 'fast_cnn'), shown, method='cam')
