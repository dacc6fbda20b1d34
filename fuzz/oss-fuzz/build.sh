#!/bin/bash -eu
# Builds the targets, their seeds and the dictionary to where OSS-Fuzz looks for them.
cd "$SRC/httpteleport/fuzz"
cargo run --quiet --example seeds
cargo fuzz build -O
for source in fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    cp "target/x86_64-unknown-linux-gnu/release/$target" "$OUT/"
    cp teleport.dict "$OUT/$target.dict"
    if [ -d "corpus/$target" ]; then
        zip -q -j "$OUT/${target}_seed_corpus.zip" "corpus/$target"/*
    fi
done
