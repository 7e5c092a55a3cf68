// gRPC from Go, with stubs of the contract. Run: cd examples/go && buf generate ../../protos && go run .
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	rstitch "rstitch.example/gen/rstitch/v1"
)

func main() {
	address := cmp.Or(os.Getenv("RSTITCH_ROUTER"), "127.0.0.1:50050")
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	content := "Mia has 47 shells. She finds 35 more. How many shells does she have?"
	chat := &rstitch.Chat{Messages: []*rstitch.ChatMessage{{Role: "user", Content: content}}}
	threshold := &rstitch.Threshold{Tau: 0.02}
	events, err := rstitch.NewRouterServiceClient(connection).Generate(context.Background(), &rstitch.GenerateRequest{
		Input:  &rstitch.GenerateRequest_Chat{Chat: chat},
		Policy: &rstitch.Policy{Kind: &rstitch.Policy_Threshold{Threshold: threshold}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		// The LLM's words are in brackets, as `rstitch ask` has them in colour.
		if chunk := event.GetChunk(); chunk.GetModel() == rstitch.Model_MODEL_LLM {
			fmt.Printf("[%s]", chunk.GetText())
		} else {
			fmt.Print(chunk.GetText())
		}
		if finished := event.GetFinished(); finished != nil {
			fmt.Printf("\n%s, tokens by the LLM: %d\n", finished.GetReason(), finished.GetUsage().GetNumLlmTokens())
		}
	}
}
