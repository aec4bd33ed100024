"""The small model of MDLM: English text in the tokens of GPT-2, under the absorbing process.

OpenWebText is not part of this library: give the joined texts of its documents as ``openwebtext.txt``, and the tokenizer of GPT-2
as ``gpt2.json``, which ``tokenizers.Tokenizer.from_pretrained("gpt2").save("gpt2.json")`` writes. Sizes and training are those of
Sahoo et al. 2024, arXiv:2406.07524. The published network gets the constant 0 in place of the time, and this one has no time,
which is the same set of functions. It has 162,264,913 parameters, the published one 169,627,218.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "seed": 0,
            "device": "auto",
            "threads": 0,
            "data": {
                "name": "TextFile",
                "train": "openwebtext.txt",
                "length": 1024,
                "vocabulary": {"name": "TokenizerFile", "file": "gpt2.json"},
                "test_fraction": 0.0125,
                "stride": 1024,
                "cache": "openwebtext-tokens",
            },
            "process": {"name": "Absorbing"},
            "network": {
                "name": "TokenTransformer",
                "width": 768,
                "depth": 12,
                "heads": 12,
                "dropout": 0.1,
                "embedding_size": 128,
                "time": False,
            },
            "objective": {"name": "ContinuousBound"},
            "training": {
                "steps": 1_000_000,
                "batch_size": 512,
                "learning_rate": 3e-4,
                "beta2": 0.999,
                "warmup": 2500,
                "grad_clip": 1.0,
                "ema_decay": 0.9999,
                "precision": "bfloat16",
                "checkpoint_every": 10_000,
                "log_every": 50,
            },
            "sampling": {"count": 64, "batch_size": 8, "seed": 0},
            "samplers": {"ancestral": {"name": "AncestralSampler", "steps": 1000}},
            "likelihood": {"split": "test", "batch_size": 8},
        }
    )
