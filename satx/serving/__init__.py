"""Serving: TensorFlow Serving's REST and gRPC interfaces over exports of satx."""
