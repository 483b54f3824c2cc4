"Intervals hold the truth as often as they say; tests of a difference agree with formulas and worked examples."
import math, time
import numpy as np, pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from cnnfast.evaluation.intervals import average_scores, mcnemar, metric_intervals, paired_difference, resampled_metrics

def confusion_of(seed, c=5):
    "Chances of (actual, predicted), (c,c): classes of different sizes, right in about three of four cases"
    rng = np.random.default_rng(seed)
    m = rng.dirichlet(np.ones(c), c)*0.25 + 0.75*np.eye(c)
    return m*np.linspace(1, 2, c)[:,None]/np.linspace(1, 2, c).sum()

def truth(p): return average_scores(np.diag(p), p.sum(1), p.sum(0))

def drawn(rng, p, n): return np.divmod(rng.choice(p.size, n, p=p.ravel()), len(p))

def test_coverage():
    "Of 1,000 simulated test splits, 93 to 97% have an interval that holds the truth, for every metric"
    rng,p = np.random.default_rng(0),confusion_of(0)
    want,inside = truth(p),{}
    for k in range(1000):
        t = metric_intervals(*drawn(rng, p, 1000), 5, n_resamples=500, seed=k)
        for m,v in want.items(): inside.setdefault(m, []).append(t.low[m] <= v <= t.high[m])
    assert all(0.93 <= np.mean(o) <= 0.97 for o in inside.values()), {m:np.mean(o) for m,o in inside.items()}

def test_coverage_of_differences():
    "Likewise for the difference between two models that agree on most pictures"
    rng,p,inside = np.random.default_rng(1),confusion_of(1),[]
    again = 0.3 # share of pictures on which the second model decides for itself
    q = (1-again)*p + again*p.sum(1, keepdims=True)*confusion_of(2)/confusion_of(2).sum(1, keepdims=True)
    want = truth(p)['accuracy'] - truth(q)['accuracy']
    for k in range(1000):
        targs,a = drawn(rng, p, 500)
        other = confusion_of(2)/confusion_of(2).sum(1, keepdims=True)
        b = np.where(rng.random(500) < again, (rng.random((500, 1)) > other[targs].cumsum(1)).sum(1), a)
        o = paired_difference(targs, a, b, 5, n_resamples=500, seed=k).loc['accuracy']
        inside.append(o.low <= want <= o.high)
    assert 0.93 <= np.mean(inside) <= 0.97

def test_seeds_widen_the_interval():
    "With several seeds, the choice of seeds counts as well"
    rng,p = np.random.default_rng(2),confusion_of(3)
    targs,a = drawn(rng, p, 1000)
    worse = np.where(rng.random(1000) < 0.2, 0, a)
    one,two = [metric_intervals(targs, o, 5).loc['accuracy'] for o in (a, [a, worse])]
    assert two.high-two.low > 3*(one.high-one.low)
    assert two.value == pytest.approx((accuracy_score(targs, a) + accuracy_score(targs, worse))/2, abs=1e-12)

def test_metrics_are_those_of_sklearn():
    rng = np.random.default_rng(3)
    for c in (2, 7, 200):
        targs,preds = rng.integers(0, c, 1000),rng.integers(0, c-1, 1000) # the last class is never predicted
        mine = metric_intervals(targs, preds, c, n_resamples=10).value
        assert mine.accuracy == pytest.approx(accuracy_score(targs, preds), abs=1e-9)
        for avg in ('macro', 'weighted'):
            theirs = precision_recall_fscore_support(targs, preds, average=avg, zero_division=0)
            assert [mine[f'{k}_{avg}'] for k in ('precision', 'recall', 'f1')] == pytest.approx(theirs[:3], abs=1e-9)

def test_resamples_are_whole():
    "Every resample has as many pictures as the split, and the same ones for both models"
    rng = np.random.default_rng(4)
    targs,a,b = rng.integers(0, 30, 400),rng.integers(0, 30, 400),rng.integers(0, 30, 400)
    one,two = resampled_metrics(targs, [a, a], 30, 50)['accuracy']
    assert (one == two).all()
    both = resampled_metrics(targs, [a, b], 30, 2000)['accuracy']
    assert both.mean(1) == pytest.approx([(a == targs).mean(), (b == targs).mean()], abs=0.003)
    assert both.std(1) == pytest.approx([math.sqrt(o*(1-o)/400) for o in ((a == targs).mean(), (b == targs).mean())], rel=0.1)

def test_mcnemar():
    "The sign test on the pictures that only one got right, in full"
    a,b = np.repeat([True, False, True, False], [59, 6, 16, 80]),np.repeat([False, True, True, False], [59, 6, 16, 80])
    tail = sum(math.comb(65, k) for k in range(7))/2**65
    o = mcnemar(a, b)
    assert (o['only_a'], o['only_b']) == (59, 6) and o['p'] == pytest.approx(2*tail, rel=1e-9)
    assert mcnemar(a, a)['p'] == 1

def test_bootstrap_in_time():
    "10,000 resamples of 10,000 pictures of 200 classes, each at a tenth of what scikit-learn takes for one, or less"
    from sklearn.metrics import precision_recall_fscore_support
    rng = np.random.default_rng(5)
    targs = rng.integers(0, 200, 10_000)
    preds = np.where(rng.random(10_000) < 0.5, targs, rng.integers(0, 200, 10_000))
    start = time.perf_counter()
    for _ in range(10):
        i = rng.integers(0, len(targs), len(targs))
        precision_recall_fscore_support(targs[i], preds[i], labels=range(200), average='macro', zero_division=0)
    theirs,start = (time.perf_counter()-start)/10,time.perf_counter()
    t = metric_intervals(targs, preds, 200)
    assert (time.perf_counter()-start)/10_000 < theirs/10
    assert (t.low < t.value).all() and (t.value < t.high).all()

def test_other_pictures():
    with pytest.raises(ValueError, match='same pictures'): paired_difference(np.zeros(5, int), np.zeros(5, int), np.zeros(4, int), 2)
