"""Export of trained encoders as ONNX bundles that a gate has compared with their checkpoint on real data.

plugin        the export targets that come with icclip
bundle        from a checkpoint to a bundle that has passed the gate
onnx/         the two towers as float32 graphs
precisions/   fp32, fp16 and int8, one file each, and how graphs are reduced to them
gate/         what is compared, and which requirements apply
tensorrt/     engines for onnxruntime's TensorRT provider
"""
