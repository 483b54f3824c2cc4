"Autoencoders: any backbone and size, what the decoder may know, masks, scores, folders, bad input."
from copy import deepcopy
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from conftest import cnnfast_here, fails_with
from cnnfast.core.plotting import to_images
from cnnfast.data.dataset import digits
from cnnfast.data.folders import image_folder, sample_folder
from cnnfast.data.loading import denormalized
from cnnfast.models.pretrained import create_model
from cnnfast.training.learner import scratch_learner
from cnnfast.training.transfer import transfer_learner
from cnnfast.interpretation.activations import look_at
from cnnfast.interpretation.maps import class_maps
from cnnfast.saving.folder import as_classifier, load_model, save_model
from cnnfast.autoencoder.similarity import drawn_maps, map_iou, psnr, ssim
from cnnfast.autoencoder.unet import UnetAutoencoder
from cnnfast.autoencoder.reconstruction import autoencoder_learner, reconstruction_scores, show_masks
from cnnfast.autoencoder.latents import latent_vectors, latent_walk, nearest_vectors, plot_latents, plot_nearest, plot_walk

def fit(learn, *epochs, how='fit_one_cycle', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*epochs, **kwargs)
    return learn

@pytest.fixture(scope='module')
def dls(tmp_path_factory): return image_folder(sample_folder(tmp_path_factory.mktemp('photos')/'photos'), size=32).dataloaders(bs=64)

@pytest.fixture(scope='module')
def learn(dls): return fit(scratch_learner(dls, 'custom_cnn', widths=(8, 16, 16, 32), seed=0), 3)

@pytest.fixture(scope='module')
def plain(learn): return fit(autoencoder_learner(learn, skips=False, latent=24, seed=0), 12, lr_max=3e-3)

@pytest.fixture(scope='module')
def masked(learn): return fit(autoencoder_learner(learn, target='masked', width=8, seed=0), 8, lr_max=1e-2)

def state(model): return {k:v.clone() for k,v in model.state_dict().items()}
def same(a, b): return [k for k in a if not torch.equal(a[k].cpu(), b[k].cpu())]

@pytest.mark.parametrize('name,sizes', [
    ('cnn', (9, 32)), ('custom_cnn', (31,)), ('fast_cnn', (8, 32, 50)), ('resnet18', (50,)), ('convnext_atto', (64,)),
    ('mobilenetv3_small_050', (45,)), ('efficientnet_b0', (50,)), ('densenet121', (40,))])
@pytest.mark.parametrize('skips', (True, False))
def test_any_backbone_and_size(name, sizes, skips):
    "What is drawn has the size of the picture, also where no halving fits it"
    for size in sizes:
        ae = UnetAutoencoder(create_model(name, 3, 10, size), 3, size, skips, latent=10, width=8).eval()
        x = torch.randn(2, 3, size, size)
        with torch.no_grad(): out,z = ae(x),ae.encode(x)
        assert out.shape == x.shape and 0 <= out.min() and out.max() <= 1
        sides = ae.pyramid.sides()
        assert all(a == 2*b for a,b in zip(sides, sides[1:])) and sides[0] >= size
        if not skips:
            assert z.shape == (2, 10)
            with torch.no_grad(): assert torch.allclose(ae(z), out, atol=1e-5) # the vector is all that the decoder knows

def test_upscaled_backbone():
    "A classifier that scales its pictures up is drawn in their own size"
    learn = transfer_learner(digits().dataloaders(bs=64), seed=0)
    ae = autoencoder_learner(learn, width=8)
    assert ae.model.inner == 24 and ae.model(ae.dls.one_batch()[0].cpu()).shape[1:] == (1, 8, 8)
    assert reconstruction_scores(ae).pictures['all'] == 179

def test_the_picture_itself_is_not_passed_on():
    "Where the maps are blank, the decoder draws the same whatever the picture"
    ae = UnetAutoencoder(create_model('cnn'), 3, 32).eval()
    x,maps = torch.randn(2, 3, 32, 32),ae.pyramid.maps
    with torch.no_grad():
        assert not torch.allclose(*ae(x))
        ae.pyramid.maps = lambda x: [torch.zeros_like(o) for o in maps(x)]
        assert torch.equal(*ae(x))

def test_scores_are_those_of_others():
    "SSIM against scipy's Gaussian filter, as Wang et al. define it; PSNR by hand"
    rng = np.random.default_rng(0)
    a = gaussian_filter(rng.random((4, 3, 32, 40)), (0, 0, 2, 2)); a = (a-a.min())/(a.max()-a.min())
    b = (a + 0.1*rng.standard_normal(a.shape)).clip(0, 1)
    def mean(x): return gaussian_filter(x, (0, 0, 1.5, 1.5), truncate=5/1.5)[...,5:-5,5:-5]
    ma,mb = mean(a),mean(b)
    va,vb,cov = mean(a*a)-ma**2,mean(b*b)-mb**2,mean(a*b)-ma*mb
    want = ((2*ma*mb+1e-4)*(2*cov+9e-4)/((ma**2+mb**2+1e-4)*(va+vb+9e-4))).mean((1, 2, 3))
    ta,tb = torch.from_numpy(a),torch.from_numpy(b)
    np.testing.assert_allclose(ssim(ta, tb), want, atol=1e-6)
    np.testing.assert_allclose(psnr(ta, tb), 10*np.log10(1/((a-b)**2).mean((1, 2, 3))), rtol=1e-6)

def test_maps_are_recovered_from_drawings(learn):
    "From photographs masked by round maps at 30 places"
    pics,g = denormalized(learn.dls.valid, look_at(learn, 30, 'train').x),torch.Generator().manual_seed(0)
    row,col = torch.rand(2, 30, 1, 1, generator=g)*24 + 4
    maps = torch.exp(-((torch.arange(32)[:,None] - row)**2 + (torch.arange(32) - col)**2)/(2*6**2))
    iou = map_iou(drawn_maps(pics*maps[:,None], pics), maps)
    assert iou.mean() > 0.85
    assert map_iou(drawn_maps(pics*maps.roll(1, 0)[:,None], pics), maps).mean() < iou.mean() - 0.4
    a = torch.zeros(3, 4, 4); a[0,:2],a[1,:,:2] = 1,1
    b = torch.zeros(3, 4, 4); b[0,:2],b[1,:2] = 1,1
    np.testing.assert_allclose(map_iou(a, b), [1, 4/12, np.nan])

def test_frozen_encoder_stays_as_it_is(learn):
    "Weights and batch statistics; fine-tuning then moves it, and never the classifier it was copied from"
    before = state(learn.model)
    ae = fit(autoencoder_learner(learn, width=8, seed=0), 1)
    assert not same(before, ae.model.pyramid.body.state_dict())
    fit(ae, 1, how='fine_tune')
    assert {'0.0.weight', '0.1.running_mean'} <= set(same(before, ae.model.pyramid.body.state_dict()))
    assert not same(before, learn.model.state_dict())

def test_training_draws_better(learn, plain, masked):
    "Than before it, and from pictures and maps of the same augmentation"
    for trained,kwargs in ((plain, dict(skips=False, latent=24)), (masked, dict(target='masked', width=8))):
        new = reconstruction_scores(autoencoder_learner(learn, seed=0, **kwargs)).loc['all']
        now = reconstruction_scores(trained).loc['all']
        assert now.psnr > new.psnr + 1
    assert 'iou' not in reconstruction_scores(plain) and 0 < reconstruction_scores(masked).iou['all'] <= 1

@pytest.mark.parametrize('of,method', [('predicted', 'gradcam'), ('actual', 'gradcam'), ('predicted', 'cam')])
def test_masks_are_the_classifiers_maps(learn, of, method):
    "Of the class predicted, or of the actual one, made in either way"
    ae = autoencoder_learner(learn, target='masked', of=of, method=method, width=8)
    shown = look_at(ae, 30, 'train')
    pics,maps,targs = ae.draw_pictures.target(shown.x, torch.as_tensor(shown.targs))
    want,classes = class_maps(learn, shown, None if of == 'predicted' else shown.targs.tolist(), method=method)
    np.testing.assert_allclose(maps.cpu(), want, atol=1e-5)
    np.testing.assert_allclose(targs.cpu(), pics.cpu()*want[:,None], atol=1e-5)
    np.testing.assert_allclose(to_images(pics), shown.pics, atol=1e-6)

def test_another_classifiers_masks(learn, dls):
    blank = scratch_learner(dls, 'cnn', seed=1)
    ae = autoencoder_learner(blank, target='masked', classifier=learn, width=8)
    shown = look_at(learn, 5, 'test')
    np.testing.assert_allclose(ae.draw_pictures.maps(shown.x).cpu(), class_maps(learn, shown)[0], atol=1e-5)

def test_perceptual_loss(learn):
    "Nothing for the same pictures, and gradients for others; the classifier stays as it is"
    before = state(learn.model)
    ae = autoencoder_learner(learn, loss='perceptual', width=8, seed=0)
    x = denormalized(learn.dls.valid, look_at(learn, 8).x)
    assert ae.loss_func(x, x) == 0
    other = (x*0.5).requires_grad_()
    ae.loss_func(other, x).backward()
    assert ae.loss_func(other, x) > (other-x).abs().mean() and other.grad.abs().sum() > 0
    fit(ae, 1)
    assert not same(before, learn.model.state_dict())

def test_mixed_and_unmemorised_pictures(photos):
    "Batches that mix pictures are left out; pictures read from disk work as well"
    dls = image_folder(photos, size=16).dataloaders(bs=64, mix='mixup', in_memory=False, num_workers=0)
    ae = fit(autoencoder_learner(scratch_learner(dls, 'cnn'), width=8), 1)
    assert reconstruction_scores(ae).psnr['all'] > 8

@pytest.mark.parametrize('normalize', ('picture', 'none'))
def test_other_normalisation(normalize):
    dls = digits().dataloaders(bs=64, normalize=normalize)
    ae = fit(autoencoder_learner(scratch_learner(dls, 'cnn'), target='masked', width=8), 1)
    assert reconstruction_scores(ae).loc['all'].notna().all()

def test_folder(plain, tmp_path):
    "Draws the same as the learner, from files and arrays; its vectors, too"
    ae = load_model(save_model(plain, tmp_path/'ae'), 'cpu')
    files = list(plain.dls.test.items)
    with plain.no_bar(): want = plain.get_preds(ds_idx=2)[0]
    np.testing.assert_allclose(ae.reconstruct(files), to_images(want), atol=1e-4)
    np.testing.assert_allclose(ae.encode(files), latent_vectors(plain, 'test')[0], atol=1e-3)
    fails_with(cnnfast_here('predict', tmp_path/'ae', files[0]), 'names no classes')
    again = autoencoder_learner(load_model(save_model(fit(scratch_learner(plain.dls, 'cnn'), 1), tmp_path/'m')), plain.dls, width=8)
    assert reconstruction_scores(again).pictures['all'] == len(files)

def test_folder_of_a_name(tmp_path):
    "A backbone by its name"
    ae = autoencoder_learner('tiny_resnet', digits().dataloaders(bs=64), width=8)
    assert load_model(save_model(ae, tmp_path/'ae'), 'cpu').reconstruct(np.zeros((2, 8, 8), dtype=np.uint8)).shape == (2, 8, 8, 1)

def test_figures_and_walks(plain, masked):
    shown = look_at(plain, 4, 'test')
    assert len(show_masks(masked, shown).texts) == 5*4 and len(show_masks(plain, shown).texts) == 3*4
    ways = latent_walk(plain, shown, 5)
    assert ways.shape == (3, 5, 32, 32, 3)
    with torch.inference_mode(): ends = to_images(plain.model(shown.x))
    np.testing.assert_allclose(ways[:,0], ends[:-1], atol=1e-5); np.testing.assert_allclose(ways[:,-1], ends[1:], atol=1e-5)
    plot_nearest(plain, [0, 5]); plot_latents(plain, method='pca'); plot_walk(plain, shown)

def test_nearest_vectors():
    x = np.random.default_rng(0).standard_normal((50, 6)); x[7] = 3*x[2]
    found = nearest_vectors(x, [2, 7], 3)
    assert found[0,0] == 7 and found[1,0] == 2 and found.shape == (2, 3)

@pytest.mark.parametrize('says,kwargs', [
    ("target='mask' is not known", dict(target='mask')), ("of='true' is not known", dict(of='true')),
    ('did you mean perceptual', dict(loss='perceptial')),
    ('give numbers above 0', dict(latent=0)), ('give numbers above 0', dict(width=-1))])
def test_bad_arguments(learn, says, kwargs):
    with pytest.raises(ValueError, match=says): autoencoder_learner(learn, **kwargs)

def test_no_pyramid(dls):
    with pytest.raises(ValueError, match='choose a network with convolutions'):
        autoencoder_learner(scratch_learner(dls, 'ann', hidden=(10,)))
    class OneMap(nn.Module):
        def __init__(self): super().__init__(); self.conv,self.act = nn.Conv2d(3, 8, 3, padding=1),nn.ReLU()
        def forward(self, x): return self.act(self.conv(x)).mean((2, 3))[:,:2]
    with pytest.raises(ValueError, match='maps of 1 resolutions?, .* try skips=False'): autoencoder_learner(scratch_learner(dls, OneMap()))
    assert autoencoder_learner(scratch_learner(dls, OneMap()), skips=False, latent=5,
                               width=4).model.encode(torch.zeros(1, 3, 32, 32)).shape == (1, 5)

def test_classifiers_that_do_not_fit(learn, dls, photos, tmp_path):
    saved = load_model(save_model(learn, tmp_path/'m'), 'cpu')
    with pytest.raises(ValueError, match='give dls'): autoencoder_learner(saved)
    with pytest.raises(ValueError, match='pictures of 32 pixels, dls gives 16'):
        autoencoder_learner(saved, image_folder(photos, size=16).dataloaders(bs=64))
    with pytest.raises(ValueError, match='normalised in another way'):
        autoencoder_learner(saved, image_folder(photos, size=32).dataloaders(bs=64, normalize='none'))
    with pytest.raises(ValueError, match='resnet18 was not trained on these classes'):
        autoencoder_learner('resnet18', dls, target='masked', pretrained=False)
    with pytest.raises(ValueError, match='did you mean resnet18'): autoencoder_learner('resnet81', dls)
    broken = deepcopy(saved); next(broken.model.parameters()).data[0] = float('nan')
    with pytest.raises(ValueError, match='NaN or infinite'): autoencoder_learner(broken, dls)

def test_what_an_autoencoder_is_not(plain, masked, tmp_path):
    with pytest.raises(ValueError, match='names no classes'): as_classifier(plain)
    with pytest.raises(ValueError, match='has skip connections'): latent_walk(masked, look_at(masked, 2))
    with pytest.raises(ValueError, match='two or more'): latent_walk(plain, look_at(plain, 1))
    by_hand = autoencoder_learner(scratch_learner(plain.dls, deepcopy(create_model('cnn', 3, 2))), width=8)
    with pytest.raises(ValueError, match='made by hand'): save_model(by_hand, tmp_path/'ae')

def test_report_and_command(tmp_path, monkeypatch):
    "`cnnfast run --autoencoder` writes models that load, a page that shows them beside the ensemble, and trains them once"
    from cnnfast.study import comparison
    monkeypatch.setattr(comparison, 'autoencoder_epochs', lambda n: 2)
    run = ('run', 'digits', '--models', 'cnn', '--epochs', 1, '--seeds', 2, '--autoencoder', '--out', tmp_path/'run')
    res = cnnfast_here(*run)
    assert res.returncode == 0, res.stderr
    page = (tmp_path/'run'/'report.html').read_text()
    assert page.count('<h2 id="autoencoders">') == page.count('<h2 id="ensemble">') == 1
    assert 'IoU of the maps' in page
    assert 'nearest vectors' in page
    for o in ('masked', 'latent'):
        assert load_model(tmp_path/'run'/'autoencoder'/o, 'cpu').reconstruct(np.zeros((1, 8, 8), dtype=np.uint8)).shape == (1, 8, 8, 1)
    monkeypatch.setattr(comparison, 'fit_with_bar', None) # would fail where it trained again
    assert cnnfast_here(*run, '--resume').returncode == 0
    res = cnnfast_here('run', 'digits', '--models', 'ann', '--autoencoder', '--out', tmp_path/'other')
    fails_with(res, 'None of ann has maps', 'convolutions')
    assert not (tmp_path/'other').exists()
