#!/usr/bin/env bash
# The bag of tricks (Luo et al. 2019) on Market-1501: batch hard with warm-up, random erasing, an ID loss with label
# smoothing, last stride 1, BNNeck and center loss.
#
#     recipes/market1501_bag_of_tricks.sh MARKET CHECKPOINT OUT
#
# MARKET is the folder Market-1501-v15.09.15. CHECKPOINT has TF-slim's ImageNet weights, resnet_v1_50.ckpt. The recipe
# writes csvs/, experiment/, cosine.json and reranked.json into OUT. Call it again to continue where it stopped.
#
# The paper trains for 120 epochs. An epoch is about all 12,936 training images in batches of 16 pids × 4 images, or
# 12,936 / 64 = 202 iterations. This gives 120 × 202 = 24,240 iterations, a warm-up over 10 × 202 = 2,020, and steps at
# 40 × 202 = 8,080 and 70 × 202 = 14,140. In total these are 1.55 million images; the terminal shows images/s and the
# time left.
#
# The paper reports mAP 85.9 and rank-1 94.5, and with re-ranking 94.2 and 95.4 (not measured here). The recipe leaves
# out the paper's weight decay of 5e-4: the paper adds it to the gradient, which Adam then scales. --optimizer adamw
# does not do the same.
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

# --overwrite: those of an earlier call
python "$code/embed.py" --experiment_root "$out/experiment" --overwrite \
    --dataset "$out/csvs/query.csv" "$out/csvs/gallery.csv"

evaluate() { # file for the results, more flags. bnneck trains by Euclidean distances what is compared by cosine
    python "$code/evaluate.py" --excluder market1501 --metric cosine --filename "$1" \
        --experiment_root "$out/experiment" \
        --query_dataset "$out/csvs/query.csv" --gallery_dataset "$out/csvs/gallery.csv" "${@:2}"
}
evaluate "$out/cosine.json"
evaluate "$out/reranked.json" --rerank
