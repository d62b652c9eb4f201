// Command read prints where fields lie in structs, as the debugging information of a Go program
// says: read PROGRAM STRUCT.FIELD... gives {"STRUCT.FIELD": bytes, ...} without what is not there;
// and "STRUCT.FIELD*": 1 for each that is a pointer.
// A struct's name is as DWARF has it, with the path of its package.
package main

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/json"
	"log"
	"os"
	"strings"
)

func main() {
	log.SetFlags(0)
	program, err := elf.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	data, err := program.DWARF()
	if err != nil {
		log.Fatal(err)
	}
	wanted := map[string][]string{}
	for _, name := range os.Args[2:] {
		cut := strings.LastIndexByte(name, '.')
		wanted[name[:cut]] = append(wanted[name[:cut]], name[cut+1:])
	}
	json.NewEncoder(os.Stdout).Encode(offsets(data, wanted))
}

func offsets(data *dwarf.Data, wanted map[string][]string) map[string]int64 {
	found := map[string]int64{}
	reader := data.Reader()
	for {
		entry, err := reader.Next()
		if err != nil {
			log.Fatal(err)
		}
		if entry == nil {
			return found
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		fields := wanted[name]
		if entry.Tag != dwarf.TagStructType || fields == nil {
			continue
		}
		kind, err := data.Type(entry.Offset)
		if err != nil {
			log.Fatal(err)
		}
		for _, field := range kind.(*dwarf.StructType).Field {
			for _, one := range fields {
				if field.Name != one {
					continue
				}
				found[name+"."+one] = field.ByteOffset + inValue(field.Type)
				if _, isPointer := field.Type.(*dwarf.PtrType); isPointer {
					found[name+"."+one+"*"] = 1
				}
			}
		}
	}
}

// inValue is where an atomic.Value has its pointer: behind the type of what it holds.
func inValue(kind dwarf.Type) int64 {
	if kind.Common().Name == "sync/atomic.Value" {
		return 8
	}
	return 0
}
