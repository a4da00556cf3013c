// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @notice A contract account that accepts what its owner's key signed, and calls what the owner says.
contract OwnedWallet is IERC1271 {
    address public immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        (address signer,,) = ECDSA.tryRecoverCalldata(digest, signature);
        return signer == OWNER ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }

    function execute(address to, bytes calldata data) external returns (bytes memory) {
        require(msg.sender == OWNER, "owner");
        (bool ok, bytes memory answer) = to.call(data);
        require(ok, string(answer));
        return answer;
    }
}

/// @notice Accounts whose answer to `isValidSignature` must never pass.
contract BadWallet {
    enum Kind {
        Reverts,
        SaysNo,
        SaysTrue, // a bool instead of the magic value
        AnswersShort, // the magic value in less than a word
        AnswersNothing,
        BurnsGas,
        AnswersBomb // a very long answer that starts wrong
    }

    Kind private immutable KIND;

    constructor(Kind kind) {
        KIND = kind;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        if (KIND == Kind.Reverts) revert("no");
        if (KIND == Kind.SaysNo) return 0xffffffff;
        if (KIND == Kind.BurnsGas) {
            while (true) {}
        }
        bytes4 magic = IERC1271.isValidSignature.selector;
        Kind kind = KIND;
        assembly {
            mstore(0x00, magic)
            switch kind
            case 2 {
                mstore(0x00, 1)
                return(0x00, 0x20)
            }
            case 3 { return(0x00, 0x04) }
            case 4 { return(0x00, 0x00) }
            default {
                mstore(0x00, 0)
                return(0x00, 0x10000)
            }
        }
    }
}
