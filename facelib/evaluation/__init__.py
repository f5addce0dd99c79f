"""Evaluation by the field's protocols: k-fold accuracy, TAR@FAR, IJB templates, intervals, reports, plots."""

from facelib.evaluation.baselines import PixelEmbedding, WhitenedPixels
from facelib.evaluation.bootstrap import (
    AucComparison,
    Interval,
    bootstrap_kfold,
    bootstrap_roc,
    compare_auc,
    percentile_interval,
)
from facelib.evaluation.plots import (
    plot_det,
    plot_roc,
    plot_score_histograms,
    plot_training_curves,
    plot_worst_pairs,
)
from facelib.evaluation.report import VerificationReport, evaluate_pairs, evaluate_scores, results_tables
from facelib.evaluation.roc import (
    RocCurve,
    equal_error_rate,
    far_warnings,
    fnmr_at_fmr,
    minimum_measurable_far,
    roc_auc,
    roc_curve,
    tar_at_far,
)
from facelib.evaluation.templates import score_templates, template_features
from facelib.evaluation.verification import KFoldResult, kfold_accuracy

__all__ = [
    "AucComparison",
    "Interval",
    "KFoldResult",
    "PixelEmbedding",
    "RocCurve",
    "VerificationReport",
    "WhitenedPixels",
    "bootstrap_kfold",
    "bootstrap_roc",
    "compare_auc",
    "equal_error_rate",
    "evaluate_pairs",
    "evaluate_scores",
    "far_warnings",
    "fnmr_at_fmr",
    "kfold_accuracy",
    "minimum_measurable_far",
    "percentile_interval",
    "plot_det",
    "plot_roc",
    "plot_score_histograms",
    "plot_training_curves",
    "plot_worst_pairs",
    "results_tables",
    "roc_auc",
    "roc_curve",
    "score_templates",
    "tar_at_far",
    "template_features",
]
