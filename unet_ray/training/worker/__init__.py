"""The part of a training that runs in each worker of Ray Train; read `loop` first."""
