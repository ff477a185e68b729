"""Tables to weights: the loop, its data and its two drivers, pretrain and finetune."""
