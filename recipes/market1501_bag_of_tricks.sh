#!/usr/bin/env bash
# The bag of tricks (Luo et al. 2019) on Market-1501: batch hard with warm-up, random erasing, an ID loss with label
# smoothing, last stride 1, BNNeck and center loss.
#
#     recipes/market1501_bag_of_tricks.sh MARKET CHECKPOINT OUT
#
# MARKET: the folder Market-1501-v15.09.15. CHECKPOINT: TF-slim's ImageNet weights, resnet_v1_50.ckpt. OUT gets csvs/,
# experiment/, cosine.json and reranked.json; called again, the recipe goes on where it was stopped.
#
# Iterations: the original counts 120 epochs, each of about all 12,936 training images in batches of 16 pids × 4
# images, 12,936 / 64 = 202 iterations. So 120 × 202 = 24,240, warm-up over 10 × 202 = 2,020, steps at
# 40 × 202 = 8,080 and 70 × 202 = 14,140. That is 1.55 million images; the log tells images/s and the time left.
#
# That paper has mAP 85.9, rank-1 94.5, and re-ranked 94.2, 95.4 (not measured here). Left out: its weight decay of
# 5e-4, which there is a part of the gradient that Adam scales; --optimizer adamw does another thing.
set -euo pipefail
. "$(dirname "$0")/_market1501.sh"
begin "MARKET CHECKPOINT OUT" "$@"

train --initial_checkpoint "$2" \
    --model_name resnet_v1_50 --last_stride 1 --head_name bnneck --embedding_dim 2048 \
    --net_input_height 256 --net_input_width 128 \
    --flip_augment --pad_crop 10 --random_erasing 0.5 --batch_p 16 --batch_k 4 \
    --loss batch_hard --margin 0.3 --metric euclidean \
    --id_loss_weight 1 --label_smoothing 0.1 --center_loss_weight 5e-4 \
    --learning_rate 3.5e-4 --warmup_iterations 2020 \
    --lr_schedule multistep --lr_milestones 8080,14140 --lr_decay_factor 0.1 --train_iterations 24240

for set in query gallery; do
    python "$code/embed.py" --experiment_root "$out/experiment" --dataset "$out/csvs/$set.csv"
done

evaluate() { # file for the results, more flags
    python "$code/evaluate.py" --excluder market1501 --metric cosine --filename "$1" \
        --query_dataset "$out/csvs/query.csv" --query_embeddings "$out/experiment/query_embeddings.h5" \
        --gallery_dataset "$out/csvs/gallery.csv" --gallery_embeddings "$out/experiment/gallery_embeddings.h5" "${@:2}"
}
evaluate "$out/cosine.json"
evaluate "$out/reranked.json" --rerank
