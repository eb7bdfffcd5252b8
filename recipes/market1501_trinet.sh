#!/usr/bin/env bash
# The paper's TriNet on Market-1501: a pretrained ResNet-50, batch hard with soft margin, ten crops at test time.
#
#     recipes/market1501_trinet.sh MARKET CHECKPOINT OUT
#
# MARKET is the folder Market-1501-v15.09.15. CHECKPOINT has TF-slim's ImageNet weights, resnet_v1_50.ckpt. The recipe
# writes csvs/, experiment/ and ten_crop.json into OUT. Call it again to continue where it stopped.
# It trains on 25,000 batches of 18 pids × 4 images, 1.8 million images; the terminal shows images/s and the time left.
#
# The paper reports mAP 69.14 and rank-1 84.92 (not measured here). The code that came with it had no
# --adam_beta1_decay.
set -euo pipefail
. "$(dirname "$0")/_market1501.sh"
begin "MARKET CHECKPOINT OUT" "$@"

train --initial_checkpoint "$2" \
    --model_name resnet_v1_50 --head_name fc1024 --embedding_dim 128 \
    --net_input_height 256 --net_input_width 128 --pre_crop_height 288 --pre_crop_width 144 \
    --crop_augment --flip_augment --batch_p 18 --batch_k 4 \
    --loss batch_hard --margin soft --metric euclidean \
    --learning_rate 3e-4 --adam_beta1_decay --decay_start_iteration 15000 --train_iterations 25000

evaluate_ten_crop
