import numpy as np
import pytest
import torch

from pyiqa_rali.model.basis_scorer import BasisScorer


def random_scorer(feature_dim=12, pca_dim=5, num_basis=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scorer = BasisScorer(feature_dim, pca_dim, num_basis)
    with torch.no_grad():
        for tensor in (scorer.pca_mean, scorer.pca_components, scorer.basis_vectors):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        scorer.pca_scale.copy_(torch.rand(feature_dim, generator=generator) + 0.5)
        scorer.basis_scores.copy_(torch.rand(num_basis, generator=generator) * 4 + 1)
    return scorer


def test_the_papers_equations():
    scorer = random_scorer()
    features = torch.randn(6, 12, dtype=torch.float64)
    with torch.no_grad():
        found = scorer(features).numpy()
    mean, scale, components, vectors, scores, tau = (tensor.detach().double().numpy() for tensor in (
        scorer.pca_mean, scorer.pca_scale, scorer.pca_components, scorer.basis_vectors, scorer.basis_scores,
        scorer.temperature))
    for row, score in zip(features.numpy(), found[:, 0], strict=True):
        z = components @ ((row - mean) / scale)
        cosine = np.array([z @ v / np.linalg.norm(z) / np.linalg.norm(v) for v in vectors])
        weights = np.exp(cosine / tau) / np.exp(cosine / tau).sum()
        assert score == pytest.approx(weights @ scores, abs=1e-6)


def test_scores_are_convex_combinations_of_basis_scores():
    scorer = random_scorer()
    with torch.no_grad():
        scores = scorer(torch.randn(200, 12) * 10)
    assert scores.shape == (200, 1)
    assert scores.min() >= scorer.basis_scores.min() and scores.max() <= scorer.basis_scores.max()


def test_a_basis_vector_itself_gets_its_own_score_when_tau_is_small():
    scorer = random_scorer()
    with torch.no_grad():
        scorer.temperature.fill_(1e-3)
        scores = scorer.score_compressed(scorer.basis_vectors * 3)
    assert torch.allclose(scores[:, 0], scorer.basis_scores, atol=1e-4)


def test_half_precision_features_are_scored_in_float32():
    scorer = random_scorer()
    features = torch.randn(4, 12)
    with torch.no_grad():
        half = scorer(features.half())
    assert half.dtype == torch.float32
    assert torch.allclose(half, scorer(features).detach(), atol=0.05)


def test_an_image_has_a_temperature_of_its_own():
    scorer, one = BasisScorer(12, 5, 7, own_temperature=True), random_scorer()
    scorer.load_state_dict({**one.state_dict(), 'temperature_direction': torch.zeros(5)})
    compressed = torch.randn(6, 5)
    assert torch.allclose(scorer.weights(compressed), one.weights(compressed))  # 0 is one temperature for all
    with torch.no_grad():
        scorer.temperature_direction.copy_(torch.tensor([0.5, 0, 0, 0, 0]))
        expected = 0.07 * torch.exp(0.5 * compressed[:, :1])
        assert torch.allclose(scorer.temperature_of(compressed), expected)
        cosine = torch.nn.functional.normalize(compressed, dim=1) @ torch.nn.functional.normalize(scorer.basis_vectors, dim=1).T
        assert torch.allclose(scorer.weights(compressed), torch.softmax(cosine / expected, dim=1), atol=1e-6)
        assert torch.isfinite(scorer.weights(compressed * 1e4)).all()  # what is far outside does not overflow
    assert 'temperature_direction' not in one.state_dict()


def test_the_direction_of_the_temperature_has_a_gradient():
    scorer = BasisScorer(12, 5, 7, own_temperature=True)
    scorer.load_state_dict({**random_scorer().state_dict(), 'temperature_direction': torch.zeros(5)})
    scorer.score_compressed(torch.randn(6, 5)).square().sum().backward()
    assert scorer.temperature_direction.grad.abs().min() > 0
