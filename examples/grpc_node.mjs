// gRPC from Node, straight from the protos. Run: cd examples && npm ci && node grpc_node.mjs
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";

const protos = fileURLToPath(new URL("../protos", import.meta.url));
const contract = loader.loadSync("rstitch/v1/router.proto", { includeDirs: [protos], enums: String, oneofs: true });
const { RouterService } = grpc.loadPackageDefinition(contract).rstitch.v1;
const router = new RouterService(process.env.RSTITCH_ROUTER ?? "127.0.0.1:50050", grpc.credentials.createInsecure());

const content = "Mia has 47 shells. She finds 35 more. How many shells does she have?";
const question = { chat: { messages: [{ role: "user", content }] }, policy: { threshold: { tau: 0.02 } } };

// The LLM's words are in brackets, as `rstitch ask` has them in colour.
for await (const { chunk, finished } of router.generate(question)) {
  if (chunk) process.stdout.write(chunk.model === "MODEL_LLM" ? `[${chunk.text}]` : chunk.text);
  if (finished) console.log(`\n${finished.reason}, tokens by the LLM: ${finished.usage.numLlmTokens}`);
}
router.close();
