"""From bytes on the wire to Arrow batches: OTLP/HTTP, unpacking, decoding, the content rule."""
