# gRPC without stubs, by reflection. Run: pip install grpcio-reflection; python examples/grpc_python.py
import os

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

content = "Mia has 47 shells. She finds 35 more. How many shells does she have?"
question = {"chat": {"messages": [{"role": "user", "content": content}]}, "policy": {"threshold": {"tau": 0.02}}}

with grpc.insecure_channel(os.environ.get("RSTITCH_ROUTER", "127.0.0.1:50050")) as channel:
    method = (
        DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        .FindServiceByName("rstitch.v1.RouterService")
        .FindMethodByName("Generate")
    )
    generate = channel.unary_stream(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    for event in generate(ParseDict(question, GetMessageClass(method.input_type)())):
        # The LLM's words are in brackets, as `rstitch ask` has them in colour.
        chunk = MessageToDict(event).get("chunk", {})
        text = chunk.get("text", "")
        print(f"[{text}]" if chunk.get("model") == "MODEL_LLM" else text, end="", flush=True)
print()
