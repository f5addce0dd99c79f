"""Evaluation by the field's protocols: k-fold accuracy, TAR@FAR, IJB templates, intervals, reports."""

from facelib.evaluation.baselines import PixelEmbedding, WhitenedLBP, WhitenedPixels
from facelib.evaluation.bootstrap import (
    AucComparison,
    bootstrap_kfold,
    bootstrap_roc,
    compare_auc,
    percentile_interval,
)
from facelib.evaluation.groups import GroupErrors, GroupsReport, evaluate_groups
from facelib.evaluation.identification import (
    GallerySearch,
    IdentificationReport,
    evaluate_identification,
    search_gallery,
)
from facelib.evaluation.operating_points import OperatingPoint, transfer_thresholds
from facelib.evaluation.report import (
    EvaluationOptions,
    Report,
    VerificationReport,
    evaluate_pairs,
    evaluate_scores,
    results_tables,
    with_best_accuracy,
)
from facelib.evaluation.resampling import Interval, Resampled
from facelib.evaluation.roc import (
    RocCurve,
    SortedScores,
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
    "EvaluationOptions",
    "GallerySearch",
    "GroupErrors",
    "GroupsReport",
    "IdentificationReport",
    "Interval",
    "KFoldResult",
    "OperatingPoint",
    "PixelEmbedding",
    "Report",
    "Resampled",
    "RocCurve",
    "SortedScores",
    "VerificationReport",
    "WhitenedLBP",
    "WhitenedPixels",
    "bootstrap_kfold",
    "bootstrap_roc",
    "compare_auc",
    "equal_error_rate",
    "evaluate_groups",
    "evaluate_identification",
    "evaluate_pairs",
    "evaluate_scores",
    "far_warnings",
    "fnmr_at_fmr",
    "kfold_accuracy",
    "minimum_measurable_far",
    "percentile_interval",
    "results_tables",
    "roc_auc",
    "roc_curve",
    "score_templates",
    "search_gallery",
    "tar_at_far",
    "template_features",
    "transfer_thresholds",
    "with_best_accuracy",
]
