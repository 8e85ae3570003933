"""Generic controller machinery: clock, work queue, informer, Lease. It knows no word of training."""
