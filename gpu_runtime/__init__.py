"""The bundled inference runtime: an OpenAI-compatible server that times queue, prefill and decode."""
