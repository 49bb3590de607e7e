"""Records what TensorBoard's own protobuf classes write for an image and a text (tensorboard 2.21.0, protobuf 7.36.2).

    python tests/generate_fixtures/events.py tests/fixtures/events.json
"""

import json
import sys

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

PNG = bytes(range(200)) * 2
TEXT = "a cat é\nSteps: 3, Seed: 7"


def image():
    message = Summary.Image(height=40, width=32, colorspace=3, encoded_image_string=PNG)
    return Summary(value=[Summary.Value(tag="samples/0", image=message)])


def text():
    shown = "\n".join("    " + line for line in TEXT.splitlines())
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[shown.encode()])
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary(value=[Summary.Value(tag="samples/0/settings", metadata=metadata, tensor=tensor)])


def main():
    record = {"png": PNG.hex(), "text": TEXT, "image_summary": image().SerializeToString().hex()}
    # Fields may come in any order: what is compared is each field's bytes.
    record["text_value_fields"] = sorted(fields(text().value[0].SerializeToString()))
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
        file.write("\n")


def varint(data, at):
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """The fields of a message whose fields all have a length, in hexadecimal."""
    at, all_fields = 0, []
    while at < len(data):
        start = at
        _, at = varint(data, at)
        length, at = varint(data, at)
        at += length
        all_fields.append(data[start:at].hex())
    return all_fields


main()
