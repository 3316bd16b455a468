"""The process in which vLLM answers, run by an interpreter that has vllm but not talr.

    python -I vllm_worker.py FOLDER

It reads two files in FOLDER: order.json, {"device": its type, "engine": the arguments of vllm.LLM,
"ends": the tokens that end an answer}, and requests.jsonl, with lines {"prompt": token ids,
"max_new_tokens": a number, "stop": strings that also end an answer}. It writes answers.jsonl, with
lines {"tokens": token ids, "cut": whether no end was reached} in the order of the requests. Without
`-I`, `import vllm` would import the module vllm.py beside this file.
"""

import json
import sys

import vllm
from vllm.platforms import current_platform


def main(folder: str) -> None:
    with open(f"{folder}/order.json", encoding="utf-8") as file:
        order = json.load(file)
    with open(f"{folder}/requests.jsonl", encoding="utf-8") as file:
        requests = [json.loads(line) for line in file]
    if current_platform.device_type != order["device"]:
        sys.exit(f"this vllm runs on {current_platform.device_type}, not on {order['device']}")
    engine = vllm.LLM(**order["engine"])
    settings = [
        vllm.SamplingParams(
            temperature=0.0,
            max_tokens=request["max_new_tokens"],
            stop_token_ids=order["ends"],
            ignore_eos=True,  # `ends` has the end tokens of the model's files
            stop=request["stop"],
            include_stop_str_in_output=True,
            detokenize=bool(request["stop"]),
            skip_special_tokens=False,  # a stop string may be a special token
        )
        for request in requests
    ]
    prompts = [{"prompt_token_ids": request["prompt"]} for request in requests]
    outputs = engine.generate(prompts, settings)
    with open(f"{folder}/answers.jsonl", "w", encoding="utf-8") as file:
        for output in outputs:
            answer = output.outputs[0]
            tokens, cut = list(answer.token_ids), answer.finish_reason == "length"
            file.write(json.dumps({"tokens": tokens, "cut": cut}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
