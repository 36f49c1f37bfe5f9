"""Exact top-k of search_gallery against faiss-cpu's flat index, in turns; then full mAP by counting, and memory.

    OMP_NUM_THREADS=2 python benchmarks/retrieval.py --gallery 1000000 --queries 10000 --rounds 3

Both use the same threads. A ratio is taken within a round, of wall time and of processor time (of all threads): the
latter says more where other work shares the cores.
"""

import argparse
import json
import resource
import statistics
import sys
import time

import faiss
import torch

from lightning_graceful.functional import retrieval_metrics, search_gallery


def timed(function):
    wall, cpu = time.perf_counter(), time.process_time()
    answer = function()
    return answer, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def embeddings(rows, dim, seed, classes):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(classes, (rows,), generator=generator)
    x = torch.randn(rows, dim, generator=generator).add_(centres[labels], alpha=0.7)
    return torch.nn.functional.normalize(x), labels


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"gallery": 10**6, "queries": 10**4, "dim": 128, "k": 100, "rounds": 3, "classes": 10**4,
                          "map_queries": 1000}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    faiss.omp_set_num_threads(torch.get_num_threads())
    gallery, gallery_labels = embeddings(args.gallery, args.dim, 1, args.classes)
    query, query_labels = embeddings(args.queries, args.dim, 2, args.classes)
    index = faiss.IndexFlatIP(args.dim)
    index.add(gallery.numpy())
    rounds = []
    for _ in range(args.rounds):
        (_, theirs), flat = timed(lambda: index.search(query.numpy(), args.k))
        before = peak()
        ours, torch_only = timed(lambda: search_gallery(query, gallery, k=args.k, backend="torch"))
        grown = peak() - before
        through, by_faiss = timed(lambda: search_gallery(query, gallery, k=args.k, backend="faiss"))
        assert torch.equal(ours.positions, through.positions)
        assert torch.equal(ours.scores, through.scores)
        same = (ours.positions == torch.from_numpy(theirs)).double().mean().item()
        rounds.append({
            "faiss_index_s": flat,
            "torch_s": torch_only,
            "through_faiss_s": by_faiss,
            "torch_ratio": {kind: torch_only[kind] / flat[kind] for kind in flat},
            "through_faiss_ratio": {kind: by_faiss[kind] / flat[kind] for kind in flat},
            "same_place_as_faiss": same,
            "torch_peak_growth_mb": grown / 2**20,
        })
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    few = min(args.map_queries, args.queries)
    before = peak()
    metrics, seconds = timed(lambda: retrieval_metrics(query[:few], gallery, query_labels[:few], gallery_labels))
    medians = {
        name: {kind: statistics.median(r[name][kind] for r in rounds) for kind in ("wall", "cpu")}
        for name in ("torch_ratio", "through_faiss_ratio")
    } if rounds else {}  # fmt: skip
    full = {
        "queries": few,
        "seconds": seconds,
        "map": metrics["map"].item(),
        "peak_growth_mb": (peak() - before) / 2**20,
    }
    print(
        json.dumps({"args": vars(args), "threads": torch.get_num_threads(), "median": medians, "map": full}, indent=1)
    )


if __name__ == "__main__":
    main()
