#!/usr/bin/env bash
# Make a data set, train on it with a validation every 100 iterations, embed with the best checkpoint, and evaluate.
# This takes a few minutes on two CPU cores. Everything is written to demo/. Call the demo again to continue where it
# stopped.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/setup.sh

data=demo/data experiment=demo/experiment
[ -d "$data" ] || python -m data.synthetic "$data"

if [ -e "$experiment/args.json" ]; then
    python train.py --experiment_root "$experiment" --resume
else
    python train.py --experiment_root "$experiment" --train_set "$data/train.csv" --image_root "$data" \
        --model_name lunet_narrow --head_name direct --embedding_dim 64 \
        --net_input_height 64 --net_input_width 32 --pre_crop_height 72 --pre_crop_width 36 \
        --crop_augment --flip_augment --batch_p 16 --batch_k 4 \
        --learning_rate 1e-3 --train_iterations 600 --decay_start_iteration 300 --checkpoint_frequency 200 --seed 1 \
        --val_pids 20 --val_excluder market1501 --val_frequency 100
fi

# Takes the name of the result, and further flags.
evaluate() {
    python evaluate.py --excluder market1501 --experiment_root "$experiment" --filename "demo/$1.json" \
        --query_dataset "$data/query.csv" --gallery_dataset "$data/gallery.csv" "${@:2}"
}

python embed.py --experiment_root "$experiment" --dataset "$data/query.csv" "$data/gallery.csv" \
    --crop_augment center --checkpoint best --overwrite
for set in query gallery; do
    python embed.py --experiment_root "$experiment" --dataset "$data/$set.csv" --crop_augment center --overwrite \
        --checkpoint checkpoint-0 --filename "${set}_untrained.h5"
    python -m benchmarks.color_histogram --dataset "$data/$set.csv" --image_root "$data" --filename "demo/${set}_histogram.h5"
done
echo "Color histogram:"
evaluate histogram --query_embeddings demo/query_histogram.h5 --gallery_embeddings demo/gallery_histogram.h5
echo "Untrained network:"
evaluate untrained --query_embeddings "$experiment/query_untrained.h5" \
    --gallery_embeddings "$experiment/gallery_untrained.h5"
echo "Trained network:"
evaluate trained --report demo/report --activations "$experiment"

python - <<'END'
import json

print("\n                       mAP    top-1")
for name, title in (("histogram", "color histogram"), ("untrained", "untrained network"), ("trained", "trained network")):
    with open(f"demo/{name}.json") as file:
        result = json.load(file)
    print(f"  {title:18} {result['mAP']:7.1%}  {result['CMC'][0]:7.1%}")
END
echo
python runs.py "$experiment" --report demo/report
echo
echo "To see the curves of the training and its validations, open in a browser: demo/report/training.html"
echo "or, while it trains, too: tensorboard --logdir $experiment"
echo "To see what was found for the worst and the best queries, open in a browser: demo/report/report.html"
