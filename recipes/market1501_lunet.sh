#!/usr/bin/env bash
# The paper's LuNet on Market-1501: a small network trained from scratch, ten crops at test time.
#
#     recipes/market1501_lunet.sh MARKET OUT
#
# MARKET is the folder Market-1501-v15.09.15. The recipe writes csvs/, experiment/ and ten_crop.json into OUT. Call it
# again to continue where it stopped. It trains on 25,000 batches of 32 pids × 4 images, 3.2 million images; the
# terminal shows images/s and the time left.
#
# The paper reports mAP 60.71 and rank-1 81.38 (not measured here).
set -euo pipefail
. "$(dirname "$0")/_market1501.sh"
begin "MARKET OUT" "$@"

train --model_name lunet --head_name direct --embedding_dim 128 \
    --net_input_height 128 --net_input_width 64 --pre_crop_height 144 --pre_crop_width 72 \
    --crop_augment --flip_augment --batch_p 32 --batch_k 4 \
    --loss batch_hard --margin soft --metric euclidean \
    --learning_rate 1e-3 --adam_beta1_decay --decay_start_iteration 15000 --train_iterations 25000

evaluate_ten_crop
