"""The launch command fits the configuration: model, precision, context length, adapter and address."""

from pathlib import Path
from typing import Any

import pytest

from hero_pl.cli.main import main
from hero_pl.errors import ConfigError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.policy.server.launch import Launch
from hero_pl.policy.server.sampler import ServerSampler

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
WEBSHOP = ["--config", str(CONFIGS / "webshop_qwen3_4b.yaml"), "--config", str(CONFIGS / "hardware" / "server.yaml")]


def printed(capsys: Any, *arguments: str) -> list[str]:
    main(["serve-command", *arguments])
    return capsys.readouterr().out.strip().splitlines()  # type: ignore[no-any-return]


def test_the_overlay_of_a_large_configuration_prints_its_launch_line(capsys: Any, loads_no_model: Any) -> None:
    comment, line = printed(capsys, *WEBSHOP)
    assert comment == "# http://localhost:8000: new weights from runs/weights"
    assert line == (
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True "
        "vllm serve Qwen/Qwen3-4B-Instruct-2507 --host 127.0.0.1 --port 8000 "
        "--served-model-name student --dtype bfloat16 --enable-lora --max-lora-rank 32 --max-loras 3 "
        "--gpu-memory-utilization 0.4 --max-model-len 16384 --generation-config vllm "
        "--logprobs-mode processed_logprobs --enable-scale-out"
    )


def test_on_a_cpu_with_all_weights_and_several_servers(capsys: Any, loads_no_model: Any) -> None:
    sampler = "--model.policy.init_args.sampler"
    urls = "[http://localhost:8011, http://node7:8012]"
    lines = printed(
        capsys,
        *("--config", str(CONFIGS / "quickstart.yaml"), f"{sampler}=ServerSampler", f"{sampler}.url={urls}"),
        *(f"{sampler}.folder=weights", f"{sampler}.sync=folder", f"{sampler}.initial_url=http://localhost:8013"),
        *("--device", "cpu"),
    )
    assert [line for line in lines if line.startswith("#")] == [
        "# http://localhost:8011: new weights from weights",
        "# http://node7:8012: new weights from weights",
        "# http://localhost:8013: the initial weights",
    ]
    here, there, initial = (line for line in lines if not line.startswith("#"))
    start = (
        "VLLM_SERVER_DEV_MODE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 vllm serve"
    )
    assert here.startswith(start)
    assert "checkpoints/pocket-shop --host 127.0.0.1 --port 8011 " in here
    assert "--host 0.0.0.0 --port 8012 " in there
    assert "--port 8013 " in initial
    for line in (here, there, initial):
        assert "--enforce-eager --no-enable-chunked-prefill" in line
        assert "--enable-lora" not in line
        assert "--max-model-len" not in line  # the model's own


def test_a_rank_between_those_of_the_server_is_rounded_up() -> None:
    policy = HuggingFacePolicy(pretrained="owner/model", tokenizer="owner/other", lora=Lora(rank=12))
    line = Launch.of(policy, "student").command("http://localhost:8000")
    assert "--max-lora-rank 16 " in line
    assert "--tokenizer owner/other " in line
    with pytest.raises(ConfigError, match="adapters up to rank 512"):
        Launch.of(HuggingFacePolicy(pretrained="owner/model", lora=Lora(rank=1024)), "student")


def test_a_configuration_without_a_server_is_refused_with_the_overlay_to_add(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["serve-command", "--config", str(CONFIGS / "quickstart.yaml")])
    assert "add --config configs/hardware/server.yaml" in capsys.readouterr().err


def test_the_overlay_is_a_sampler_of_the_adapter() -> None:
    from hero_pl.cli.lightning import instantiate

    policy = instantiate(WEBSHOP).model.policy
    assert isinstance(policy.sampler, ServerSampler)
    assert (policy.sampler.mode, policy.sampler.model) == ("adapter", "student")


def test_each_server_gets_its_gpu_and_its_share_of_the_memory(capsys: Any, loads_no_model: Any) -> None:
    eight = [*WEBSHOP[:2], "--config", str(CONFIGS / "hardware" / "eight_gpus.yaml")]
    lines = [line for line in printed(capsys, *eight, "--devices", "4,5,6,7", "--memory", "0.9") if line[0] != "#"]
    assert [line.split()[0] for line in lines] == [f"CUDA_VISIBLE_DEVICES={gpu}" for gpu in (4, 5, 6, 7)]
    assert all("--gpu-memory-utilization 0.9 " in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "4,5"], "2 devices for 1 servers"),
        (["--devices", "a"], "numbers"),
        (["--memory", "0"], "a share"),
    ],
)
def test_devices_and_memory_that_do_not_fit_are_refused(words: Any, message: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["serve-command", *WEBSHOP, *words])
    assert message in capsys.readouterr().err
