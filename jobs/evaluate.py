"""Hold a trained model against masks.

python jobs/evaluate.py --model model --images data/images --masks data/masks --output metrics.json
"""

from _command import run

from unet_ray.evaluate import EvaluateConfig, EvaluateResult, evaluate


def main(config: EvaluateConfig, ray_address: str) -> None:
    """Evaluate and print the table."""
    print(table(evaluate(config, ray_address)))
    if config.output:
        print(f"metrics: {config.output}")


def table(result: EvaluateResult) -> str:
    """Return the metrics as a table."""
    metrics = result.metrics()["classes"]
    width = max(len("class"), *map(len, metrics))
    lines = [f"{'class':{width}}     IoU    Dice  pixel error  ({result.images} images)"]
    for name, values in metrics.items():
        numbers = [values["iou"], values["dice"], values["pixel_error"]]
        iou, dice, error = ("     –" if n is None else f"{n:6.4f}" for n in numbers)
        lines.append(f"{name:{width}}  {iou}  {dice}       {error}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(EvaluateConfig, main, __doc__)
