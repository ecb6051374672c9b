"""Ray Train: workers, their settings and resources, and restarts from the last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import ray
import ray.train
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train.torch import TorchTrainer

from unet_ray.cluster.cpu_features import cluster_has_bfloat16
from unet_ray.cluster.progress_board import ProgressBoard
from unet_ray.cluster.ray_internals import (
    disable_cleaner_without_dashboard,
    remove_orphaned_placement_groups,
)
from unet_ray.cluster.resources import Capacity, gpu_worker_cpus, worker_cpus
from unet_ray.cluster.session import REUSED_MEMORY
from unet_ray.errors import CredentialsError, InputError, UnetRayError, one_line
from unet_ray.flags import parse_range
from unet_ray.network.config import Precision
from unet_ray.storage.storage import Storage
from unet_ray.training.checkpoints import settle_checkpoints
from unet_ray.training.config import TrainConfig
from unet_ray.training.crop_stream import StreamFromCheckpoint
from unet_ray.training.progress import crops_seen
from unet_ray.training.setup import TrainingSetup
from unet_ray.training.worker.loop import train_worker
from unet_ray.training.worker.settings import WorkerSettings

_logger = logging.getLogger("unet_ray")

RUN_NAME = "unet_ray"
"""Folder of Ray Train's run in the run folder."""
_IDLE_RESTARTS = 1
"""Number of consecutive failures without a new checkpoint that are followed by a restart."""


def choose_cpu_precision(config: TrainConfig) -> Precision:
    """Return the arithmetic of workers on CPUs, by the instructions of all nodes."""
    if config.precision == "float32":
        return "float32"
    return "bfloat16" if cluster_has_bfloat16() else "float32"


def fit(
    config: TrainConfig, run_folder: Storage, setup: TrainingSetup, cpu_precision: Precision
) -> ray.train.Result:
    """Run the training on Ray Train.

    Args:
        config: Flags of training.
        run_folder: Run folder; training resumes from its last checkpoint.
        setup: Network, crops and validation images.
        cpu_precision: Arithmetic of workers on CPUs.

    Returns:
        Ray Train's result, with the last checkpoint.

    Raises:
        UnetRayError: The training fails, or cannot continue.
    """
    scaling = _scaling(config, cpu_precision)
    run = ray.train.RunConfig(
        name=RUN_NAME,
        storage_path=run_folder.path,
        storage_filesystem=run_folder.arrow_filesystem,
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
        worker_runtime_env=None if scaling.use_gpu else REUSED_MEMORY,
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
    )
    settings = WorkerSettings(config, setup, cpu_precision, run_folder)
    crops_per_step = config.batch_size * parse_range(config.workers, "--workers")[1]
    stream = StreamFromCheckpoint(
        sampler=setup.sampler,
        run_folder=run_folder,
        run_name=RUN_NAME,
        # two steps more than needed, because splits among workers and short batches lose crops
        total=config.epochs * setup.crops_per_epoch + 2 * crops_per_step,
        least=crops_per_step,
    )
    with ProgressBoard(_log_lines) as board:
        make_trainer = partial(
            TorchTrainer,
            train_worker,
            train_loop_config={"settings": settings, "post": board.post},
            scaling_config=scaling,
            run_config=run,
            datasets={"crops": stream},
            dataset_config=ray.train.DataConfig(
                execution_options=ray.data.ExecutionOptions(preserve_order=True)
            ),
        )
        result = _train_with_restarts(make_trainer, run_folder)
    if result.return_value is not None:
        raise UnetRayError(result.return_value)
    return result


def _log_lines(lines: Sequence[str]) -> None:
    for line in lines:
        _logger.info(line)


def _train_with_restarts(
    make_trainer: Callable[[], TorchTrainer], run_folder: Storage
) -> ray.train.Result:
    """Train, and resume from the last checkpoint after a failure.

    Training gives up if it made no progress between failures. The failure may be that of a worker,
    or of Ray Train's controller: a process beside the driver, which the kernel or Ray may kill when
    memory runs out. When the controller dies, the workers and the stream of crops end, but the
    resources that it held stay reserved.
    """
    num_idle = 0
    seen = crops_seen(run_folder, RUN_NAME)
    while True:
        try:
            trainer = make_trainer()
            disable_cleaner_without_dashboard(trainer)
            return trainer.fit()
        except (ray.train.TrainingFailedError, RayActorError, OutOfMemoryError) as error:
            lost_credentials = CredentialsError.find(error)
            if lost_credentials:
                raise lost_credentials from error
            before, seen = seen, crops_seen(run_folder, RUN_NAME)
            num_idle = 0 if seen > before else num_idle + 1
            # The first failure counts: the other workers fail because they lose the connection.
            failures: list[BaseException] = list(getattr(error, "worker_failures", {}).values())
            first = min(failures, key=lambda each: "onnection" in str(each), default=error)
            cause = one_line(first)
            if num_idle > _IDLE_RESTARTS:
                raise UnetRayError(
                    f"training failed: {cause}; rerun with --storage {run_folder.uri} to resume"
                ) from error
            is_worker = isinstance(error, ray.train.TrainingFailedError)
            failed = "a worker" if is_worker else "the process that controls the training"
            _logger.warning(f"{failed} failed ({cause}); resuming from the last checkpoint")
            if not is_worker:
                remove_orphaned_placement_groups(getattr(error, "actor_id", None))
            settle(run_folder)


def settle(run_folder: Storage) -> None:
    """Repair Ray Train's list of checkpoints before training starts, and log what was found.

    Raises:
        InputError: A folder or file cannot be read, or no checkpoint loads.
    """
    _log_lines(settle_checkpoints(run_folder, RUN_NAME))


def _scaling(config: TrainConfig, cpu_precision: Precision) -> ray.train.ScalingConfig:
    """Give workers their CPUs and GPUs, and leave some CPUs to Ray Data."""
    least, most = parse_range(config.workers, "--workers")
    have = Capacity.of_cluster()
    use_gpu = config.device == "gpu"
    if config.device == "auto":
        use_gpu = have.gpus >= least
    if use_gpu:
        each = {"CPU": gpu_worker_cpus(have), "GPU": 1.0}
        have.require_gpus(
            least, each["CPU"], f"--workers {config.workers} on GPUs", "give fewer, or --device cpu"
        )
    elif least > have.cpus and not have.grows:
        raise InputError(
            f"--workers {config.workers}: the cluster has {have.cpus} CPUs; "
            f"give at most {have.cpus}"
        )
    elif config.precision == "bfloat16" and cpu_precision != "bfloat16":
        raise InputError(
            "--precision bfloat16: a CPU of the cluster has no instructions for it (AVX512_BF16 or "
            "AMX) and would take 4 to 8 times as long as in float32; leave out --precision"
        )
    else:
        each = {"CPU": worker_cpus(have, least)}
    device = "GPU" if use_gpu else f"CPU, {cpu_precision}"
    workers = "workers" if most > 1 else "worker"
    _logger.info(
        f"training on {config.workers} {workers} ({device}), batch {config.batch_size} each"
    )
    return ray.train.ScalingConfig(
        num_workers=most if least == most else (least, most),
        use_gpu=use_gpu,
        resources_per_worker=each,
        elastic_resize_monitor_interval_s=config.resize_check_s,
    )
