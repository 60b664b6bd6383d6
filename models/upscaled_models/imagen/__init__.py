"""Imagen on Vertex AI: pictures enlarged by Google's service, beside the local engines."""
