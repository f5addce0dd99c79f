"""Models for others to run: ONNX, and an MLflow model from images to embeddings."""

from facelib.export.mlflow_model import save_mlflow_model
from facelib.export.onnx_model import ExportError, OnnxCheck, OnnxEmbedder, export_onnx
from facelib.export.pipeline import FacePipeline

__all__ = ["ExportError", "FacePipeline", "OnnxCheck", "OnnxEmbedder", "export_onnx", "save_mlflow_model"]
