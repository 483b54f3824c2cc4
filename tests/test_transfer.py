"Transfer: weights arrive as timm would load them, stages, stems, features computed once, and what goes wrong."
import pytest
import timm
import torch
from cnnfast.data.folders import image_folder, sample_folder
from cnnfast.models.weights import write_weights
from cnnfast.models.pretrained import stage_split
from cnnfast.training.transfer import backbone_features, transfer_learner, try_backbones

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return sample_folder(tmp_path_factory.mktemp('photos')/'photos')

def dls_of(folder, size=32): return image_folder(folder, size=size).dataloaders(bs=32)

def quiet(learn, f, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, f)(*args, **kwargs)
    return learn

def body(learn): return next(m for m in learn.model[0].modules() if type(m).__name__ == 'TimmBody')

@pytest.mark.parametrize('arch,size', [('resnet18', 64), ('inception_v3', 96), ('vgg11_bn', 64), ('vit_tiny_patch16_224', 224)])
def test_weights_from_disk_are_timms(folder, arch, size, tmp_path):
    "A residual network, an inception, a VGG and a vision transformer: the same outputs as timm's own loading of the file"
    torch.manual_seed(0)
    torch.save(timm.create_model(arch).state_dict(), tmp_path/'w.pth')
    theirs = timm.create_model(arch, checkpoint_path=str(tmp_path/'w.pth')).eval()
    dls = dls_of(folder, 64)
    learn = transfer_learner(dls, arch, weights=tmp_path/'w.pth', size=None if size == 64 else size)
    x = torch.randn(2, 3, size, size)
    mine = body(learn).eval()
    with torch.no_grad():
        expected = theirs.forward_features(x) if mine.needs_pool else theirs.forward_head(theirs.forward_features(x), pre_logits=True)
        assert torch.equal(mine(x), expected)
        assert learn.model.eval()(dls.valid.one_batch()[0]).shape[1] == 2

def test_stages_and_gradual_unfreezing(folder):
    assert len(stage_split(transfer_learner(dls_of(folder), 'resnet18', pretrained=False).model)) == 6
    learn = transfer_learner(dls_of(folder), 'test_resnet', pretrained=False, seed=0)
    groups = stage_split(learn.model)
    assert sum(p.numel() for g in groups for p in g) == sum(p.numel() for p in learn.model.parameters())
    quiet(learn, 'fine_tune_gradually', 1, base_lr=1e-3)
    assert len(learn.history()) == len(groups) == 6
    rates = [h['lr'] for h in learn.opt.hypers]
    assert rates == sorted(rates) and rates[0] < rates[-1]/50

def test_small_pictures(folder):
    dls = dls_of(folder)
    x = torch.randn(2, 3, 32, 32)
    plain,stem,scaled = [transfer_learner(dls, 'resnet18', pretrained=False, **kw) for kw in ({}, dict(stem=True), dict(size=128))]
    shapes = [tuple(o.model[0](x).shape[-2:]) for o in (plain, stem, scaled)]
    assert shapes == [(1, 1), (4, 4), (4, 4)]
    with pytest.raises(ValueError, match='size='): transfer_learner(dls_of(folder, 64), 'vit_tiny_patch16_224', pretrained=False, stem=True)

def test_features_computed_once(folder):
    "The head learns the same from features as from pictures through the frozen backbone, and the backbone stays as it was"
    learn = transfer_learner(dls_of(folder), 'test_resnet', pretrained=False, seed=0)
    before = {k:v.clone() for k,v in learn.model[0].state_dict().items()}
    feats,targs = backbone_features(learn, 'valid')
    assert len(feats) == len(targs) == len(learn.dls.valid_ds)
    quiet(learn, 'fit_head', 5)
    assert all(torch.equal(v, before[k]) for k,v in learn.model[0].state_dict().items())
    assert len(learn.history()) == 5
    with learn.no_bar(), learn.no_logging(): loss,acc = learn.validate()
    assert acc == pytest.approx(learn.history().accuracy.iloc[-1]) and loss == pytest.approx(learn.history().valid_loss.iloc[-1], rel=1e-4)

def test_try_backbones(folder):
    res = try_backbones(dls_of(folder), ['test_resnet', 'test_efficientnet'], epochs=0, pretrained=False, seed=0)
    assert set(res.table.index) == {'test_resnet', 'test_efficientnet'}
    assert res.table.accuracy.is_monotonic_decreasing
    assert (res.table.seconds > 0).all()
    res.plot()

# What goes wrong

def test_unknown_architecture(folder):
    with pytest.raises(ValueError, match="no model 'resnet_18': did you mean resnet18"): transfer_learner(dls_of(folder), 'resnet_18')
    with pytest.raises(ValueError, match="'cnn' has no pretrained weights"): transfer_learner(dls_of(folder), 'cnn')

def test_weights_of_another_architecture(folder, tmp_path):
    write_weights(timm.create_model('resnet18'), tmp_path/'r18.safetensors')
    write_weights(timm.create_model('resnet18', channels=(32, 64, 128, 256)), tmp_path/'narrow.safetensors')
    with pytest.raises(ValueError, match='does not hold weights of vgg11: it lacks features.0.weight'):
        transfer_learner(dls_of(folder), 'vgg11', weights=tmp_path/'r18.safetensors')
    with pytest.raises(ValueError, match='does not hold weights of resnet18: '
                       r'it has layer1.0.conv1.weight \(32, 64, 3, 3\) instead of \(64, 64, 3, 3\)'):
        transfer_learner(dls_of(folder), 'resnet18', weights=tmp_path/'narrow.safetensors')

def test_classifier_of_the_checkpoint_does_not_matter(folder, tmp_path):
    write_weights(timm.create_model('test_resnet', num_classes=7), tmp_path/'seven.safetensors')
    assert transfer_learner(dls_of(folder), 'test_resnet', weights=tmp_path/'seven.safetensors').dls.c == 2

def test_head_of_fewer_pictures_than_a_batch(folder):
    learn = transfer_learner(image_folder(folder, size=32).subset(per_class=10).dataloaders(bs=10), 'test_resnet', pretrained=False, seed=0)
    before = learn.model[1][-1].weight.clone()
    quiet(learn, 'fit_head', 2)
    assert not torch.equal(before, learn.model[1][-1].weight)
